"""``report.html``: a training on one page that needs nothing else.

The report of a run that only a service holds: its rounds and its samples, without a training's settings.
"""

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from mild_client import MildClient, RoundFit
from mild_core.agreement import HeldOutAgreement
from mild_trainer.report import figures, html, sample_sections, summary
from mild_trainer.report.sample_sections import Samples
from mild_trainer.review.review_runs import ServiceRun, Training, opened


def write(path: Path, numbers: Mapping[str, Any], samples: Samples | None = None) -> Path:
    """Write the page of a ``summary.json`` and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(numbers, samples), encoding="utf-8")
    return path


def render(numbers: Mapping[str, Any], samples: Samples | None = None) -> str:
    """Return the page.

    Parameters
    ----------
    numbers
        What ``summary.json`` holds.
    samples
        What is known of single samples; None leaves their sections out.
    """
    data, settings, rounds = numbers["dataset"], numbers["settings"], numbers["rounds"]
    n_rounds, rows = len(rounds), summary.rows(numbers)
    remarks = summary.planting(numbers), summary.validation(numbers), _ended(numbers)
    parts = [
        _verified(numbers["verified"]),
        html.cards(_cards(numbers)) if rounds else "",
        "<h2>Rounds</h2>",
        html.table(
            summary.HEADINGS, (html.row(row, "comparison" if i >= n_rounds else "") for i, row in enumerate(rows))
        ),
        *(f"<p class='alarm'>{escape(alarm)}</p>" for alarm in summary.alarming(numbers)),
        f"<p>{escape(' '.join(filter(None, remarks)))}</p>",
        histograms((each["round"], each["selection"], _fit(each)) for each in rounds),
        "" if samples is None else sample_sections.render(samples),
        f"<h2>Loss and accuracy</h2><figure>{figures.curves(rounds)}</figure>",
        f"<h2>Settings</h2><figure><dl>{_facts(numbers)}</dl></figure>",
    ]
    return html.page(
        f"{data['name']}, noise {settings['noise']}",
        f"{data['num_samples']:,} training and {data['num_test']:,} test images of {data['num_classes']} classes; "
        f"{settings['model']}, {settings['epochs']} epochs a round, observe {settings['observe']}, "
        f"seed {settings['seed']}.",
        "\n".join(filter(None, parts)),
    )


def histograms(rounds: Iterable[tuple[int, Mapping[str, Any], RoundFit | None]]) -> str:
    """The section that shows what each round's set was read off: its number, its selection and its fit."""
    drawn = "".join(_figure(number, selection, fit) for number, selection, fit in rounds)
    return f"<h2>Scores, components and cuts</h2><div class='figures'>{drawn}</div>"


def _figure(number: int, selection: Mapping[str, Any], fit: RoundFit | None) -> str:
    reasons = "; ".join(str(reason) for reason in selection["reasons"])
    picture = "<p>Nothing was fitted.</p>" if fit is None else figures.histogram(fit, selection, number)
    return (
        f"<figure><h3>Round {number}: {escape(selection['verdict'])}</h3>"
        f"<figcaption>{escape(reasons)}</figcaption>{picture}</figure>"
    )


def _fit(each: Mapping[str, Any]) -> RoundFit | None:
    """A round's fit; summaries of earlier versions have none."""
    fit = each.get("fit")
    return None if fit is None else RoundFit(fit["origin"], fit["width"], tuple(fit["counts"]), tuple(fit["densities"]))


def _ended(numbers: Mapping[str, Any]) -> str:
    return f"No further round: {numbers['ended']}."


def _verified(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    agreed = HeldOutAgreement(**{name: value for name, value in found.items() if name != "what"})
    return f"<p{'' if agreed.carries_signal else ' class=alarm'}>{escape(agreed.summary_text)}.</p>"


def _cards(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    last, oracle = numbers["rounds"][-1], numbers["oracle"]
    cards = [
        ("samples kept", f"{last['selected']:,}"),
        ("noise, estimated", summary.number(last["estimated_noise"])),
        ("test accuracy, last round", summary.number(last["test_accuracy"])),
        ("test accuracy, all labels", summary.number(numbers["baseline"]["test_accuracy"])),
    ]
    if oracle is not None:
        cards.append(("test accuracy, true clean set", summary.number(oracle["test_accuracy"])))
    if last["f1"] is not None:
        cards.insert(1, ("F1 of the clean set", summary.number(last["f1"])))
    return cards


def _facts(numbers: Mapping[str, Any]) -> str:
    settings = dict(numbers["settings"])
    selection = {f"selection {name}": value for name, value in settings.pop("selection").items()}
    facts = {**settings, **selection, **numbers["versions"]}
    return "".join(
        f"<dt>{escape(name)}</dt><dd>{'-' if value is None else escape(str(value))}</dd>"
        for name, value in facts.items()
    )


def write_run_report(run: str, url: str | None, api_key: str | None, path: Path) -> Path:
    """Write the report of a training's folder, or of a run of a service, and return its path.

    Raises
    ------
    ReviewError
        If there is no such training, or its service is not named.
    """
    folder = Path(run)
    if not folder.is_dir() and url is not None:
        with MildClient(url, api_key=api_key) as client:
            page = service_report(client, run)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
        return path
    with opened(run, url, api_key) as reviewed:
        training = Training.read(folder)
        samples = sample_sections.gather(reviewed, training, training.data())
    return write(path, training.numbers(), samples)


def service_report(client: MildClient, run_id: str) -> str:
    """Return the page of a service's run."""
    known = client.get_run(run_id)
    numbers = [each["round"] for each in known["rounds"] if each["state"] == "finished"] or [0]
    found = [(number, client.selection(run_id, number), client.fit(run_id, number)) for number in numbers]
    rows = []
    for number, selection, _ in found:
        noise = selection["estimated"]["noise_rate"]
        kept = f"{selection['num_selected']:,}"
        rows.append((str(number), kept, summary.number(noise and noise["value"]), selection["verdict"]))
    samples = sample_sections.gather(ServiceRun(client, run_id, None), None, None)
    body = (
        html.cards([("samples kept", rows[-1][1]), ("noise, estimated", rows[-1][2])]),
        "<h2>Rounds</h2>",
        html.table(("round", "kept", "noise estimated", "verdict"), map(html.row, rows)),
        histograms(found),
        sample_sections.render(samples),
    )
    return html.page(f"Run {run_id}", f"{known['num_samples']:,} samples", "\n".join(body))
