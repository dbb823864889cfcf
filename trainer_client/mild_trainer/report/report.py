"""``report.html``, a self-contained page about a training or a run of a service, and a training's model card.

The model card is ``README.md`` next to the weights, with measured facts only.
"""

import base64
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from numpy.typing import NDArray
from PIL import Image

from mild_client import RoundFit
from mild_client.atomic_write import write_atomically
from mild_core.agreement import HeldOutAgreement
from mild_core.statements import count_judged, describe_draw, describe_quality, propose_draw_size
from mild_trainer.clean_set import COLUMNS
from mild_trainer.data import Dataset
from mild_trainer.report import figures, summary
from mild_trainer.review.review_list import ScoredSamples, rank_samples
from mild_trainer.review.review_runs import ReviewedRun, ServiceRun, TrainingFolder, open_reviewed_run

N_SUSPICIOUS = 50
"""Number of suspicious samples in a report."""
_MAX_CLASSES, _MAX_PAIRS = 20, 30
_MAX_IMAGE_SIDE = 128
"""Longest side of an image in pixels; larger images are scaled down."""
_NO_PAIRS = np.empty((0, 2), dtype=np.int64)


def format_cell(text: str) -> str:
    """Escape bars, line ends and tags for a cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


# Undefined names are errors: otherwise a page would silently lack data.
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters |= {"cell": format_cell, "json": json.dumps}


def render(template: str, **context: Any) -> str:
    """Return a template with the values of `context`, which are escaped in HTML unless they are `Markup`."""
    return _ENVIRONMENT.get_template(template).render(context)


def render_report(
    results: Mapping[str, Any],
    samples: Mapping[str, Any] | None = None,
    selection: Mapping[str, Any] | None = None,
) -> str:
    """Return the report of a training as HTML.

    Parameters
    ----------
    results
        Content of ``summary.json``.
    samples
        The samples to show, as `gather_samples` returns them; None leaves their sections out.
    selection
        The last selection as it is now, with what has been audited since; None for that of `results`.
    """
    data, settings, rounds = results["dataset"], results["settings"], results["rounds"]
    headings, rows = summary.build_rounds_table(results)
    statements = summary.describe_last_set(results, selection)
    options = {f"selection {name}": value for name, value in settings["selection"].items()}
    facts = {name: value for name, value in settings.items() if name != "selection"}
    training = {
        "agreement": results["verified"] and HeldOutAgreement.from_json(results["verified"]),
        "state": summary.describe_state(),
        "alarms": summary.describe_alarms(results),
        "remarks": (
            summary.describe_set_round(results),
            summary.describe_planting(results),
            summary.describe_validation(results),
            f"No further round: {results['ended']}.",
        ),
        "curves": figures.draw_training_curves(rounds),
        "facts": {**facts, **options, **results["versions"]},
    }
    return render(
        "report.html",
        title=summary.describe_data(results),
        subtitle=f"{summary.count_samples(results)} of {data['num_classes']} classes; "
        f"{settings['model']}, {settings['epochs']} epochs a round, observe {settings['observe']}, "
        f"seed {settings['seed']}.",
        training=training,
        statements=statements,
        next_step=summary.describe_next_step(statements, "mild review RUN", results),
        cards=_list_key_values(results) if rounds else (),
        headings=headings,
        rows=rows,
        # Summaries of earlier versions have no fits.
        fits=[
            _draw_fit(each["round"], each["selection"], each.get("fit") and RoundFit(**each["fit"])) for each in rounds
        ],
        samples=samples,
    )


def _draw_fit(
    number: int, selection: Mapping[str, Any], fit: RoundFit | None
) -> tuple[int, Mapping[str, Any], str | None]:
    """Return number, selection and histogram of a round; None where nothing was fitted."""
    return number, selection, None if fit is None else figures.draw_histogram(fit, selection, number)


def _list_key_values(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the names and values of the cards."""
    last, oracle, set_round = results["rounds"][-1], results["oracle"], summary.get_set_round(results)
    cards = [("samples kept", f"{set_round['selected']:,}")]
    if set_round["f1"] is not None:
        cards.append(("F1 of the clean set", summary.format_number(set_round["f1"])))
    if last["test_accuracy"] is not None:
        cards += [
            ("test accuracy, last round", summary.format_number(last["test_accuracy"])),
            ("test accuracy, all labels", summary.format_number(results["baseline"]["test_accuracy"])),
        ]
    if oracle is not None:
        cards.append(("test accuracy, true clean set", summary.format_number(oracle["test_accuracy"])))
    return cards


def write_run_report(run: str, url: str | None, api_key: str | None, path: Path) -> Path:
    """Write the report of a training in a folder, or of a run of a service, to `path`, and return the path.

    Parameters
    ----------
    run
        Folder of a training, or a run's id at the service.
    url
        Address of the service; None if the run is stored in the folder of the training.
    api_key
        Key for the service, if it needs one.
    path
        The HTML file, whose folder is created if it does not exist.
    """
    with open_reviewed_run(run, url, api_key) as reviewed:
        if reviewed.training is not None:
            return _write_training_report(reviewed, reviewed.training, path)
        assert isinstance(reviewed, ServiceRun)  # the others have the folder of a training
        return write_page(path, render_service_run(reviewed))


def write_reports(reviewed: ReviewedRun, training: TrainingFolder) -> tuple[Path, Path]:
    """Write report and model card of a training with the present marks into its folder, and return their paths."""
    page = _write_training_report(reviewed, training, training.folder / "report.html")
    card = render_model_card(training.summary, reviewed.read_selection())
    return page, write_page(training.folder / "README.md", card)


def _write_training_report(reviewed: ReviewedRun, training: TrainingFolder, path: Path) -> Path:
    """Write the report of a training with the present marks to `path`, and return the path."""
    data = training.load_data()
    predicted = None if data is None else training.predict_labels(data)
    samples = gather_samples(reviewed, reviewed.score_samples(), data, predicted)
    return write_page(path, render_report(training.summary, samples, reviewed.read_selection()))


def render_service_run(run: ServiceRun) -> str:
    """Return the report of a run of a service as HTML."""
    client, run_id = run.client, run.run_id
    state = client.get_run(run_id)
    numbers = [record["round"] for record in state["rounds"] if record["state"] == "finished"] or [0]
    selections = [(number, client.selection(run_id, number)) for number in numbers]
    rows = []
    for number, selection in selections:
        noise = selection["fitted"]["noise_rate"]
        n_selected = f"{selection['num_selected']:,}"
        rows.append((str(number), n_selected, summary.format_number(noise and noise["value"]), selection["verdict"]))
    statements = describe_quality(selections[-1][1])
    draw_size = propose_draw_size(count_judged(selections[-1][1]))
    is_bounded = statements[0].basis == "bounded"
    return render(
        "report.html",
        title=f"Run {run_id}",
        subtitle=f"{state['num_samples']:,} samples",
        training=None,
        statements=statements,
        next_step=None if is_bounded else f"{describe_draw(draw_size)}: mild review RUN --draw {draw_size}",
        cards=[("samples kept", rows[-1][1])],
        headings=("round", "kept", "noise fitted", "verdict"),
        rows=rows,
        fits=[_draw_fit(number, selection, client.fit(run_id, number)) for number, selection in selections],
        samples=gather_samples(run, run.score_samples()),
    )


def write_page(path: Path, page: str) -> Path:
    """Write a report or a model card to `path`, whose folder is created if it does not exist, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode())
    return path


def gather_samples(
    run: ReviewedRun, samples: ScoredSamples, data: Dataset | None = None, predicted: NDArray[np.int64] | None = None
) -> dict[str, Any]:
    """Gather the samples of a run that its report shows, for the template ``samples.html``.

    Parameters
    ----------
    run, samples
        The run, and its samples with their scores.
    data
        The data set with the labels of the training; None where it is not available.
    predicted
        Shape (n_samples,), the labels that the last network predicts. None uses the labels that the run suggests if
        there are no `data`, and else shows none.
    """
    dropped = np.flatnonzero(~samples.kept)
    first = rank_samples(samples, "suspicious")[:N_SUSPICIOUS]
    images: list[str | None] = [None] * len(first)
    if data is None:
        samples = run.name_samples(samples, np.union1d(first, dropped))
        names = [values or [None] * samples.kept.size for values in (samples.labels, samples.suggested)]
        labels = [(names[0][index], names[1][index]) for index in dropped.tolist()]
        complete = [pair for pair in labels if None not in pair]
        pairs = np.array(complete, dtype=np.int64) if complete else _NO_PAIRS
    else:
        samples = samples.name_samples(data, predicted)
        pairs = _NO_PAIRS if predicted is None else np.stack((data.y_train[dropped], predicted[dropped]), axis=1)
        if not data.has_features:
            brightest = max(1, int(data.x_train.max()))
            # The brightest pixel of the data set is white.
            scaled = (data.x_train[first].astype(np.uint16) * 255 // brightest).astype(np.uint8)
            images = list(map(encode_image, scaled))
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in samples.format_rows(first)]
    return {
        "data_map": figures.draw_data_map(run.make_data_map(samples), run.change_label),
        **count_confusions(pairs, () if data is None else data.class_names),
        "suspicious": list(zip(rows, images, strict=True)),
    }


def count_confusions(pairs: NDArray[np.int64], class_names: Sequence[str] = ()) -> dict[str, Any]:
    """Count how often each given label was predicted as each class.

    Parameters
    ----------
    pairs
        Shape (n, 2), given and predicted label of each sample.
    class_names
        Name of each class; empty for numbers.

    Returns
    -------
    confusions
        The pairs, the names of the classes, and the counts of all pairs, as lists by given and predicted label; with
        more than 20 classes, the counts of the commonest pairs in their place.
    """
    names = class_names or tuple(map(str, range(int(pairs.max(initial=-1)) + 1)))
    n_classes, counts = len(names), None
    if n_classes <= _MAX_CLASSES:
        numbers = pairs[:, 0] * n_classes + pairs[:, 1]
        counts = np.bincount(numbers, minlength=n_classes**2).reshape(n_classes, n_classes).tolist()
    commonest = Counter(map(tuple, pairs.tolist())).most_common(_MAX_PAIRS)
    return {"pairs": pairs, "class_names": names, "counts": counts, "commonest": commonest}


def encode_image(pixels: NDArray[np.uint8]) -> str:
    """Encode an image, shape (height, width, n_channels), as a ``data:`` URL: as RGB, or else its first channel."""
    channels = pixels if pixels.shape[-1] == 3 else pixels[..., 0]
    image = Image.fromarray(np.ascontiguousarray(channels))
    image.thumbnail((_MAX_IMAGE_SIDE, _MAX_IMAGE_SIDE))
    content = io.BytesIO()
    image.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


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
