"""The model card: ``README.md`` next to a training's weights, with measured facts only."""

from collections.abc import Mapping
from typing import Any

from mild_core.agreement import HeldOutAgreement
from mild_trainer.report import summary
from mild_trainer.report.rendering import render


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
    settings = results["settings"]
    statements = summary.describe_last_set(results, selection)
    headings, rows = summary.build_rounds_table(results)
    task = "image-classification" if results["dataset"]["kind"] == "images" else "tabular-classification"
    return render(
        "model_card.md",
        name=f"{settings['model']} on {summary.describe_data(results)}",
        task=task,
        model_results=_list_results(results, task),
        texts=[
            *(statement.text for statement in statements if statement.basis != "fitted"),
            summary.describe_next_step(statements, "mild review RUN", results),
            summary.describe_set_round(results),
            summary.describe_state(),
            *summary.describe_alarms(results),
        ],
        fitted=[statement.text for statement in statements if statement.basis == "fitted"],
        facts=_list_facts(results),
        headings=headings,
        rows=rows,
        ended=results["ended"],
        data=results["dataset"],
        settings={key: value for key, value in settings.items() if key != "data_dir"},  # a card may be published
    )


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


def _list_results(results: Mapping[str, Any], task: str) -> list[dict[str, Any]]:
    """Return the test accuracy of the weights, in the format of model hubs; an empty list if none were trained."""
    last_training = results["finish"] or (results["rounds"][-1] if results["rounds"] else None)
    if last_training is None or last_training["test_accuracy"] is None:
        return []
    data = results["dataset"]["name"]
    return [
        {
            "task": {"type": task},
            "dataset": {"name": data, "type": data},
            "metrics": [{"type": "accuracy", "value": last_training["test_accuracy"]}],
        }
    ]
