"""``README.md`` beside a training's weights: the facts of the run, and nothing that was not measured."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mild_trainer.report import summary


def write(numbers: Mapping[str, Any], folder: Path) -> Path:
    """Write the card of a ``summary.json`` into `folder` and return its path."""
    path = folder / "README.md"
    path.write_text(render(numbers), encoding="utf-8")
    return path


def render(numbers: Mapping[str, Any]) -> str:
    """Return the card as Markdown, under front matter as model hubs read it; values in it are JSON, which YAML is."""
    data, settings = numbers["dataset"], numbers["settings"]
    name = f"{settings['model']} on {data['name']}, noise {settings['noise']}"
    published = {key: value for key, value in settings.items() if key != "data_dir"}  # a card is for others to read
    front = {
        "library_name": "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["mild-selection", "noisy-labels", settings["model"]],
        "model-index": [{"name": name, "results": _results(numbers)}],
    }
    head = "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items())
    facts = "\n".join(f"| {_cell(what)} | {_cell(value)} |" for what, value in _facts(numbers))
    rounds = "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in summary.rows(numbers))
    return f"""---
{head}
---

# {_cell(name)}

Trained over rounds with mild-selection, which leaves samples out whose labels look wrong.

| fact | value |
|---|---|
{facts}

## Rounds

| {" | ".join(summary.HEADINGS)} |
|{"---|" * len(summary.HEADINGS)}
{rounds}

No further round: {_cell(numbers["ended"])}.

## Loading

Images are float32 of shape (n, {data["image"][-1]}, {data["image"][0]}, {data["image"][1]}), made of bytes that were
normalised by the mean and standard deviation of the training set's channels.

```python
import safetensors.torch
from mild_trainer.training.resnet import build

model = build("{settings["model"]}", n_channels={data["image"][-1]}, n_classes={data["num_classes"]})
safetensors.torch.load_model(model, "model.safetensors")
model.eval()
```

## Settings

```json
{json.dumps(published, indent=2)}
```
"""


def _facts(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    data, noise = numbers["dataset"], numbers["noise"]
    facts = [
        ("data set", f"{data['name']}: {data['num_samples']:,} training and {data['num_test']:,} test images"),
        ("classes", str(data["num_classes"])),
        ("noise", noise["spec"]),
        ("share of wrong labels, true", summary.number(noise["actual"])),
    ]
    if numbers["rounds"]:
        last = numbers["rounds"][-1]
        estimates = last["selection"]["estimated"]
        facts += [("rounds", str(len(numbers["rounds"]))), ("samples kept by the last", f"{last['selected']:,}")]
        facts += [("verdict", last["verdict"])]
        facts += [(f"{name.replace('_', ' ')}, estimated", _interval(found)) for name, found in estimates.items()]
        facts += [("test accuracy, last round", summary.number(last["test_accuracy"]))]
    if numbers["finish"] is not None:
        finish = numbers["finish"]
        facts += [(f"test accuracy, {finish['method']} finish", summary.number(finish["test_accuracy"]))]
    return [*facts, *((f"version of {name}", version) for name, version in numbers["versions"].items())]


def _interval(found: Mapping[str, float] | None) -> str:
    return "-" if found is None else f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _results(numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the weights in the folder reached on the test set; empty where none were trained."""
    told_last = numbers["finish"] or (numbers["rounds"][-1] if numbers["rounds"] else None)
    if told_last is None:
        return []
    data = numbers["dataset"]["name"]
    return [
        {
            "task": {"type": "image-classification"},
            "dataset": {"name": data, "type": data},
            "metrics": [{"type": "accuracy", "value": told_last["test_accuracy"]}],
        }
    ]


def _cell(text: str) -> str:
    """Text as it stands in a table: a bar or a line's end would break it, a tag would be one."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
