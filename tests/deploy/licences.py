"""Licences of what is installed, and the table that lists them: ``python -m tests.deploy.licences`` rewrites it."""

import re
from importlib.metadata import Distribution, distributions
from pathlib import Path

DOCUMENT = Path("docs/dependencies.md")
UNNAMED = {"axe-playwright-python": "MIT", "namex": "Apache-2.0"}
"""What a package does not name: the licence in its repository."""
HEADER = "| distribution | licence |\n|---|---|\n"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> dict[str, str]:
    lines = [line for line in Path("constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {normal(name): version for name, version in (line.split("==") for line in lines)}


def licence(distribution: Distribution) -> str:
    fields = distribution.metadata
    classifiers = [line.split("::")[-1].strip() for line in fields.get_all("Classifier", []) if "License ::" in line]
    alone = fields.get_all("License-Expression", []) or [line for line in ["; ".join(classifiers)] if line]
    named = (alone or fields.get_all("License", []) or [UNNAMED.get(normal(distribution.name), "")])[0]
    return " ".join(named.split())[:80].strip()


def rows() -> dict[str, str]:
    """Licence of each pinned distribution, as the document has it."""
    lines = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", DOCUMENT.read_text(), re.MULTILINE)
    return {normal(name): found.strip() for name, found in lines}


def main() -> None:
    """Rewrite the document's table from what is installed; what is not installed keeps its row."""
    known = rows()
    found = known | {normal(each.name): licence(each) for each in distributions()}
    lines = [f"| `{name}` | {found.get(name) or 'unknown'} |" for name in sorted(pinned())]
    text, _, _ = DOCUMENT.read_text().partition(HEADER)
    DOCUMENT.write_text(text + HEADER + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
