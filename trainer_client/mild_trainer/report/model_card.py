"""The model card: ``README.md`` next to a training's weights, with measured facts only."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mild_core.agreement import HeldOutAgreement
from mild_trainer.report import summary


def write_model_card(results: Mapping[str, Any], folder: Path, selection: Mapping[str, Any] | None = None) -> Path:
    """Write the model card to ``README.md`` in `folder`, and return its path.

    Parameters
    ----------
    results
        Content of ``summary.json``.
    folder
        Folder of the training, with its weights.
    selection
        The set's selection as it is now, with what has been audited since; None for that of `results`.
    """
    path = folder / "README.md"
    path.write_text(render_model_card(results, selection), encoding="utf-8")
    return path


def render_model_card(results: Mapping[str, Any], selection: Mapping[str, Any] | None = None) -> str:
    """Return the model card of a training as Markdown, with front matter for model hubs.

    The values of the front matter are JSON, which is a subset of YAML.

    Parameters
    ----------
    results
        Content of ``summary.json``.
    selection
        The set's selection as it is now, with what has been audited since; None for that of `results`.
    """
    data, settings = results["dataset"], results["settings"]
    task, n_inputs = _get_task(results), data["shape"][-1]
    name = f"{settings['model']} on {summary.describe_data(results)}"
    published = {key: value for key, value in settings.items() if key != "data_dir"}  # a card may be published
    front_matter = {
        "library_name": "pytorch",
        "pipeline_tag": task,
        "tags": ["mild-selection", "noisy-labels", settings["model"]],
        "model-index": [{"name": name, "results": _list_results(results)}],
    }
    head = "\n".join(f"{key}: {json.dumps(value)}" for key, value in front_matter.items())
    facts = "\n".join(f"| {_format_cell(what)} | {_format_cell(value)} |" for what, value in _list_facts(results))
    headings, rows = summary.build_rounds_table(results)
    rounds = "\n".join(f"| {' | '.join(map(_format_cell, row))} |" for row in rows)
    return f"""---
{head}
---

# {_format_cell(name)}

Trained over rounds with mild-selection, which leaves samples out whose labels look wrong.
{_render_statements(results, selection)}
| fact | value |
|---|---|
{facts}

## Rounds

| {" | ".join(headings)} |
|{"---|" * len(headings)}
{rounds}

No further round: {_format_cell(results["ended"])}.

## Loading

{_describe_input(data)}

```python
import safetensors.torch
from mild_trainer.training.network import build_network

model = build_network("{settings["model"]}", n_inputs={n_inputs}, n_classes={data["num_classes"]})
safetensors.torch.load_model(model, "model.safetensors")
model.eval()
```

## Settings

```json
{json.dumps(published, indent=2)}
```
"""


def _get_task(results: Mapping[str, Any]) -> str:
    """Return the task of the network, as model hubs name it."""
    return "image-classification" if results["dataset"]["kind"] == "images" else "tabular-classification"


def _describe_input(data: Mapping[str, Any]) -> str:
    """Return what the network takes."""
    if data["kind"] == "features":
        return (
            f"Features are float32 of shape (n, {data['shape'][0]}), less the mean of the training set's, and divided\n"
            "by their standard deviation (1 for a feature that is constant there)."
        )
    height, width, n_channels = data["shape"]
    return (
        f"Images are float32 of shape (n, {n_channels}, {height}, {width}), made of bytes that were\n"
        "normalised by the mean and standard deviation of the training set's channels."
    )


def _render_statements(results: Mapping[str, Any], selection: Mapping[str, Any] | None) -> str:
    """Return what is known of the last set as paragraphs, those of the fit last and small."""
    statements = summary.describe_last_set(results, selection)
    texts = [statement.text for statement in statements if statement.basis != "fitted"]
    texts.append(summary.describe_next_step(statements, "mild review RUN", results) or "")
    texts.append(summary.describe_set_round(results) or "")
    texts.append(summary.describe_state())
    paragraphs = [_format_cell(text) for text in texts if text]
    paragraphs += [_format_cell(alarm) for alarm in summary.describe_alarms(results)]
    paragraphs += [f"<sub>{_format_cell(each.text)}</sub>" for each in statements if each.basis == "fitted"]
    return "".join(f"\n{paragraph}\n" for paragraph in paragraphs)


def _list_facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the names and values of the measured facts."""
    data, noise = results["dataset"], results["noise"]
    facts = [
        ("data set", f"{data['name']}: {summary.count_samples(results)}"),
        ("classes", str(data["num_classes"])),
        ("noise", noise["spec"]),
        ("share of wrong labels, true", summary.format_number(noise["actual"])),
    ]
    if results["verified"] is not None:
        facts.append(("held-out agreement", HeldOutAgreement.from_json(results["verified"]).summary_text))
    if results["rounds"]:
        last, set_round = results["rounds"][-1], summary.get_set_round(results)
        facts += [("rounds", str(len(results["rounds"]))), ("samples kept", f"{set_round['selected']:,}")]
        facts += [("verdict", last["verdict"])]
        facts += [("test accuracy, last round", summary.format_number(last["test_accuracy"]))]
    if results["finish"] is not None:
        finish = results["finish"]
        facts += [(f"test accuracy, {finish['method']} finish", summary.format_number(finish["test_accuracy"]))]
    return [*facts, *((f"version of {name}", version) for name, version in results["versions"].items())]


def _list_results(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the test accuracy of the weights, in the format of model hubs; an empty list if none were trained."""
    last_training = results["finish"] or (results["rounds"][-1] if results["rounds"] else None)
    if last_training is None or last_training["test_accuracy"] is None:
        return []
    data = results["dataset"]["name"]
    return [
        {
            "task": {"type": _get_task(results)},
            "dataset": {"name": data, "type": data},
            "metrics": [{"type": "accuracy", "value": last_training["test_accuracy"]}],
        }
    ]


def _format_cell(text: str) -> str:
    """Escape bars, line ends and tags for a cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
