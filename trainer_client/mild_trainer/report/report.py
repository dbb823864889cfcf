"""``report.html``, a self-contained page about a training in a folder, or about a run of a service."""

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from mild_client import MildClient, RoundFit
from mild_core.agreement import HeldOutAgreement
from mild_core.draw import DRAW_SIZE
from mild_core.statements import describe_draw, describe_quality
from mild_trainer.report import figures, html, model_card, sample_sections, summary
from mild_trainer.report.sample_sections import ReportSamples
from mild_trainer.review.review_runs import ReviewedRun, ServiceRun, TrainingFolder, open_reviewed_run


def write_report(
    path: Path,
    results: Mapping[str, Any],
    samples: ReportSamples | None = None,
    selection: Mapping[str, Any] | None = None,
) -> Path:
    """Write the report of a training to `path`, and return the path.

    Parameters
    ----------
    path
        The HTML file, whose folder is created if it does not exist.
    results
        Content of ``summary.json``.
    samples
        The samples to show; None leaves their sections out.
    selection
        The last selection as it is now, with what has been audited since; None for that of `results`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_report(results, samples, selection), encoding="utf-8")
    return path


def render_report(
    results: Mapping[str, Any],
    samples: ReportSamples | None = None,
    selection: Mapping[str, Any] | None = None,
) -> str:
    """Return the report of a training as HTML.

    Parameters
    ----------
    results
        Content of ``summary.json``.
    samples
        The samples to show; None leaves their sections out.
    selection
        The last selection as it is now, with what has been audited since; None for that of `results`.
    """
    data, settings, rounds = results["dataset"], results["settings"], results["rounds"]
    n_rounds, (headings, rows) = len(rounds), summary.build_rounds_table(results)
    sentences = (
        summary.describe_set_round(results),
        summary.describe_planting(results),
        summary.describe_validation(results),
        _describe_stop_reason(results),
    )
    statements = summary.describe_last_set(results, selection)
    sections = [
        _render_agreement(results["verified"]),
        html.render_statements(statements, summary.describe_next_step(statements, "mild review RUN", results)),
        f"<p>{escape(summary.describe_state())}</p>",
        html.render_cards(_list_key_values(results)) if rounds else "",
        "<h2>Rounds</h2>",
        html.render_table(
            headings,
            (html.render_row(row, "comparison" if i >= n_rounds else "") for i, row in enumerate(rows)),
        ),
        *(f"<p class='alarm'>{escape(alarm)}</p>" for alarm in summary.describe_alarms(results)),
        f"<p>{escape(' '.join(filter(None, sentences)))}</p>",
        html.render_fitted(statements),
        render_histograms((record["round"], record["selection"], _parse_fit(record)) for record in rounds),
        "" if samples is None else sample_sections.render_sample_sections(samples),
        f"<h2>Loss and accuracy</h2><figure>{figures.draw_training_curves(rounds)}</figure>",
        f"<h2>Settings</h2><figure><dl>{_render_settings(results)}</dl></figure>",
    ]
    return html.render_page(
        summary.describe_data(results),
        f"{summary.count_samples(results)} of {data['num_classes']} classes; "
        f"{settings['model']}, {settings['epochs']} epochs a round, observe {settings['observe']}, "
        f"seed {settings['seed']}.",
        "\n".join(filter(None, sections)),
    )


def render_histograms(rounds: Iterable[tuple[int, Mapping[str, Any], RoundFit | None]]) -> str:
    """Return the section with the histograms of scores as HTML.

    Parameters
    ----------
    rounds
        Number, selection as JSON values, and fit of each round; the fit is None where nothing was fitted.
    """
    fits = "".join(_render_fit(number, selection, fit) for number, selection, fit in rounds)
    return f"<h2>Scores, components and cuts</h2><div class='figures'>{fits}</div>"


def _render_fit(number: int, selection: Mapping[str, Any], fit: RoundFit | None) -> str:
    """Render one round's histogram, with the verdict and its reasons."""
    reasons = "; ".join(str(reason) for reason in selection["reasons"])
    svg = "<p>Nothing was fitted.</p>" if fit is None else figures.draw_histogram(fit, selection, number)
    return (
        f"<figure><h3>Round {number}: {escape(selection['verdict'])}</h3>"
        f"<figcaption>{escape(reasons)}</figcaption>{svg}</figure>"
    )


def _parse_fit(record: Mapping[str, Any]) -> RoundFit | None:
    """Return the fit of a round in ``summary.json``; None without a fit, as in summaries of earlier versions."""
    fit = record.get("fit")
    return None if fit is None else RoundFit(fit["origin"], fit["width"], tuple(fit["counts"]), tuple(fit["densities"]))


def _describe_stop_reason(results: Mapping[str, Any]) -> str:
    return f"No further round: {results['ended']}."


def _render_agreement(agreement_json: Mapping[str, Any] | None) -> str:
    """Render the held-out agreement; an empty string if it was not measured."""
    if agreement_json is None:
        return ""
    agreement = HeldOutAgreement.from_json(agreement_json)
    return f"<p{'' if agreement.carries_signal else ' class=alarm'}>{escape(agreement.summary_text)}.</p>"


def _list_key_values(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the names and values of the cards."""
    last, oracle, set_round = results["rounds"][-1], results["oracle"], summary.get_set_round(results)
    cards = [("samples kept", f"{set_round['selected']:,}")]
    if last["test_accuracy"] is not None:
        cards += [
            ("test accuracy, last round", summary.format_number(last["test_accuracy"])),
            ("test accuracy, all labels", summary.format_number(results["baseline"]["test_accuracy"])),
        ]
    if oracle is not None:
        cards.append(("test accuracy, true clean set", summary.format_number(oracle["test_accuracy"])))
    if set_round["f1"] is not None:
        cards.insert(1, ("F1 of the clean set", summary.format_number(set_round["f1"])))
    return cards


def _render_settings(results: Mapping[str, Any]) -> str:
    """Render the settings and versions as elements of a description list."""
    settings = dict(results["settings"])
    selection = {f"selection {name}": value for name, value in settings.pop("selection").items()}
    facts = {**settings, **selection, **results["versions"]}
    return "".join(
        f"<dt>{escape(name)}</dt><dd>{'-' if value is None else escape(str(value))}</dd>"
        for name, value in facts.items()
    )


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
    folder = Path(run)
    if not folder.is_dir() and url is not None:
        with MildClient(url, api_key=api_key) as client:
            page = render_service_run(client, run)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
        return path
    with open_reviewed_run(run, url, api_key) as reviewed:
        return _write_training_report(reviewed, TrainingFolder.read(folder), path)


def write_reports(reviewed: ReviewedRun, folder: Path) -> tuple[Path, Path]:
    """Write report and model card of the training in `folder` with the present marks, and return their paths."""
    training = TrainingFolder.read(folder)
    page = _write_training_report(reviewed, training, folder / "report.html")
    return page, model_card.write_model_card(training.read_summary(), folder, reviewed.read_selection())


def _write_training_report(reviewed: ReviewedRun, training: TrainingFolder, path: Path) -> Path:
    """Write the report of a training with the present marks to `path`, and return the path."""
    data = training.load_data()
    predicted = None if data is None else training.predict_labels(data)
    samples = sample_sections.gather_samples(reviewed, reviewed.score_samples(), data, predicted)
    return write_report(path, training.read_summary(), samples, reviewed.read_selection())


def render_service_run(client: MildClient, run_id: str) -> str:
    """Return the report of the run `run_id` of a service as HTML."""
    run = client.get_run(run_id)
    numbers = [record["round"] for record in run["rounds"] if record["state"] == "finished"] or [0]
    selections = [(number, client.selection(run_id, number), client.fit(run_id, number)) for number in numbers]
    rows = []
    for number, selection, _ in selections:
        noise = selection["fitted"]["noise_rate"]
        n_selected = f"{selection['num_selected']:,}"
        rows.append((str(number), n_selected, summary.format_number(noise and noise["value"]), selection["verdict"]))
    service_run = ServiceRun(client, run_id, None)
    samples = sample_sections.gather_samples(service_run, service_run.score_samples(), None, None)
    statements = describe_quality(selections[-1][1])
    is_bounded = statements[0].basis == "bounded"
    body = (
        html.render_statements(
            statements, None if is_bounded else f"{describe_draw()}: mild review RUN --draw {DRAW_SIZE}"
        ),
        html.render_cards([("samples kept", rows[-1][1])]),
        "<h2>Rounds</h2>",
        html.render_table(("round", "kept", "noise fitted", "verdict"), map(html.render_row, rows)),
        html.render_fitted(statements),
        render_histograms(selections),
        sample_sections.render_sample_sections(samples),
    )
    return html.render_page(f"Run {run_id}", f"{run['num_samples']:,} samples", "\n".join(body))
