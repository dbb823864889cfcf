"""Small pictures in class folders, drawn by a seed, of which some lie in the wrong folder."""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "cross", "ring", "square", "star", "triangle")


def draw_shape(name: str, rng: np.random.Generator, side: int = 32) -> Image.Image:
    """Draw one shape in a random colour, place, size and tilt on a background of another colour."""
    scale = 4
    canvas = side * scale
    back, front = _draw_colours(rng)
    image = Image.new("RGB", (canvas, canvas), back)
    draw = ImageDraw.Draw(image)
    radius = canvas * rng.uniform(0.25, 0.38)
    x, y = (canvas * rng.uniform(0.42, 0.58) for _ in range(2))
    tilt = rng.uniform(-0.25, 0.25)
    if name in ("circle", "ring"):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=front)
        if name == "ring":
            hole = radius * 0.55
            draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill=back)
    elif name == "cross":
        for turn in (0.0, math.pi / 2):
            draw.polygon(_corners(x, y, [(1, 0.3), (1, -0.3), (-1, -0.3), (-1, 0.3)], radius, tilt + turn), fill=front)
    elif name == "square":
        draw.polygon(_corners(x, y, [(0.8, 0.8), (0.8, -0.8), (-0.8, -0.8), (-0.8, 0.8)], radius, tilt), fill=front)
    else:
        n_points = 5 if name == "star" else 3
        radii = (1.0, 0.42) if name == "star" else (1.0,)
        n_corners = n_points * len(radii)
        angles = [2 * math.pi * i / n_corners - math.pi / 2 for i in range(n_corners)]
        points = [
            (radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a)) for i, a in enumerate(angles)
        ]
        draw.polygon(_corners(x, y, points, radius * 1.1, tilt), fill=front)
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float64)
    return Image.fromarray((pixels + rng.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8))


def write_drawings(
    root: Path, n_pictures: int, noise: float, seed: int, side: int = 32, names: tuple[str, ...] = SHAPES
) -> dict[str, bool]:
    """Write drawings as ``<class>/<number>.png``; return by path whether a picture lies in the right folder."""
    rng = np.random.default_rng(seed)
    is_right = {}
    wrong = set(rng.permutation(n_pictures)[: round(noise * n_pictures)].tolist())
    for i in range(n_pictures):
        truth = i % len(names)
        given = (truth + rng.integers(1, len(names))) % len(names) if i in wrong else truth
        folder = root / names[int(given)]
        folder.mkdir(parents=True, exist_ok=True)
        draw_shape(names[truth], rng, side).save(folder / f"{i:04}.png")
        is_right[f"{folder.name}/{i:04}.png"] = i not in wrong
    return is_right


def _draw_colours(rng: np.random.Generator) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Draw the colours of background and shape, which differ in brightness."""
    dark, bright = (tuple(int(v) for v in rng.integers(low, low + 90, 3)) for low in (10, 160))
    return (dark, bright) if rng.random() < 0.5 else (bright, dark)  # type: ignore[return-value]  # three channels each


def _corners(
    x: float, y: float, points: list[tuple[float, float]], radius: float, tilt: float
) -> list[tuple[float, float]]:
    """Return points around (x, y), turned by `tilt`."""
    cos, sin = math.cos(tilt), math.sin(tilt)
    return [(x + radius * (px * cos - py * sin), y + radius * (px * sin + py * cos)) for px, py in points]
