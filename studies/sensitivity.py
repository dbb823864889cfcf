"""How much initial weights, the number of epochs and the kind of fit move the threshold and the final accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev
from types import MappingProxyType
from typing import Any, get_args

from mild_core import bitmap
from mild_core.selection import select
from mild_core.types import Fit, SelectionOptions
from mild_trainer.settings import TrainSettings
from mild_trainer.training.history import SetMetrics
from studies.programme import Case, Inputs, Line, Row, format_judged, format_table
from studies.trainings import DATA_POINTER, get_seed, load_case, make_cases, make_settings, record_training, train_on

TITLE = "What initial weights, epochs and fits change"
FITS: Mapping[str, SelectionOptions] = MappingProxyType(
    {fit: SelectionOptions(fit=fit) for fit in get_args(Fit)}
    | {"density, scale": SelectionOptions(fit="density", threshold="scale")}
)
"""Options of the selection by name: every fit with the default rule, and the published fit with its own rule."""
DEFAULT_FIT = SelectionOptions().fit
_GAINS = ("f1", "accuracy")
N_INITIAL = 5
"""Number of initial weights that are drawn for the same labels."""
FACTORS = (0.5, 2.0, 4.0)
"""Further numbers of epochs, in units of the default."""
_TEXT = f"""{DATA_POINTER}

One round, everyone observed; then a fresh network is trained on the set, always with the same weights and epochs.
Thresholds are the share of the epochs in which a kept sample may be misclassified; `-` where all trainings keep
everyone.
"""
_SEED_SHIFT = 1000


def list_cases(inputs: Inputs) -> list[Case]:
    """List trainings with several initial weights and with several numbers of epochs; labels are those of the seed."""
    noises = ("symmetric:0.4", "pairflip:0.4", "human:worse")
    groups: list[tuple[tuple[str, ...], int, tuple[str, ...]]]
    if inputs.profile == "gpu":
        groups = [((), 3, (*noises, "human:noisy"))]
    else:
        groups = [(("lite2",), 3, noises), (("digits",), 2, noises)]
    cases: list[Case] = []
    for data, n_seeds, group_noises in groups:
        cases += make_cases(inputs, data, n_seeds, group_noises, initial=tuple(range(N_INITIAL)), factor=(1.0,))
        cases += make_cases(inputs, data, n_seeds, group_noises, initial=(0,), factor=FACTORS)
    return cases


def list_settings(case: Case) -> tuple[TrainSettings, TrainSettings, *tuple[SelectionOptions, ...]]:
    """Return the settings of the final training, those of the recorded one, and the options of every fit."""
    settings = make_settings(case, rounds=1)
    epochs = round(settings.count_epochs(0) * float(case["factor"] or 1))
    initial = get_seed(case) + _SEED_SHIFT * int(case["initial"] or 0)
    return settings, replace(settings, seed=initial, epochs=epochs, first_epochs=0), *FITS.values()


def run_case(case: Case, inputs: Inputs) -> Mapping[str, Any]:
    """Train one round, select by every fit, and train on each set."""
    (settings, recorded, *_), data = list_settings(case), load_case(case, inputs)
    training = record_training(recorded, data)
    accuracies: dict[bytes, float] = {}
    results = {}
    is_varied = case["factor"] != 1.0
    for name, options in FITS.items():
        if is_varied and name != DEFAULT_FIT:
            continue
        selection = select(training.rounds, options)
        key = selection.bitmap.tobytes()
        if key not in accuracies:
            (predicted,) = train_on(selection.bitmap, settings, data, data)
            accuracies[key] = round(float((predicted == data.y_test).mean()), 4)
        metrics = SetMetrics.compare(bitmap.unpack(selection.bitmap, data.n_samples), training.clean & training.own)
        cut = selection.threshold.cut
        results[name] = {
            "threshold": None if cut is None else round(cut / selection.epochs, 4),
            "f1": round(metrics.f1, 4),
            "accuracy": accuracies[key],
            "verdict": selection.verdict,
        }
    return {"epochs": recorded.epochs, "fits": results}


def format_rows(rows: Sequence[Row], images: Path) -> str:
    """Return what moves with the initial weights, with the epochs, and with the fit."""
    varied = [row for row in rows if row.case["factor"] != 1.0]
    alike = [row for row in rows if row.case["factor"] == 1.0]
    parts = (_TEXT, _format_initial(alike), _format_epochs([*alike, *varied]), _format_fits(alike))
    return "\n".join(parts)


def _get_titles(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(_get_title(row) for row in rows))


def _get_title(row: Row) -> str:
    return f"{row.case['data']}, {row.case['noise']}"


def _format_spread(values: Sequence[float | None]) -> str:
    """Return the mean and the standard deviation of the values that are there."""
    numbers = [value for value in values if value is not None]
    return f"{fmean(numbers):.3f} ({pstdev(numbers):.3f})" if numbers else "-"


def _format_initial(rows: Sequence[Row]) -> str:
    """Return the spread over initial weights with the same labels, and that over labels."""
    lines, worst = [], 0.0
    for title in _get_titles(rows):
        own = [row for row in rows if _get_title(row) == title]
        cells = [str(len({row.case["seed"] for row in own}))]
        for field in ("threshold", "f1", "accuracy"):
            by_seed: dict[Any, list[float]] = {}
            for row in own:
                if (value := row.result["fits"][DEFAULT_FIT][field]) is not None:
                    by_seed.setdefault(row.case["seed"], []).append(value)
            within = fmean(pstdev(values) for values in by_seed.values()) if by_seed else None
            between = pstdev([fmean(values) for values in by_seed.values()]) if by_seed else None
            values = [value for values in by_seed.values() for value in values]
            cells += [f"{fmean(values):.3f}", f"{within:.3f}", f"{between:.3f}"] if values else ["-"] * 3
            worst = max(worst, within or 0.0) if field == "accuracy" else worst
        lines.append([title, *cells])
    columns = ("", ": deviation over initial weights", ": over labels")
    heads = [f"{field}{column}" for field in ("threshold", "F1", "accuracy") for column in columns]
    text = f"""### Initial weights

{N_INITIAL} initial weights (and planted labels) for the same given labels, the default fit; beside it the deviation of
the means over the seeds of the labels. The accuracy of the final network moves by {worst:.3f} at most with the initial
weights.

"""
    return text + format_table(("data, noise", "seeds of labels", *heads), lines)


def _format_epochs(rows: Sequence[Row]) -> str:
    """Return threshold, F1 and accuracy for each number of epochs, those with the first initial weights alone."""
    lines = []
    for title in _get_titles(rows):
        own = [row for row in rows if _get_title(row) == title and row.case["initial"] == 0]
        by_epochs: dict[int, list[Mapping[str, Any]]] = {}
        for row in own:
            by_epochs.setdefault(row.result["epochs"], []).append(row.result["fits"][DEFAULT_FIT])
        usual = next((row.result["epochs"] for row in own if row.case["factor"] == 1.0), 0)
        for epochs, fits in by_epochs.items():
            gain, loss = _compare_fits(fits, by_epochs.get(usual, fits))
            fields = [_format_spread([fit[field] for fit in fits]) for field in ("threshold", "f1", "accuracy")]
            verdicts = ", ".join(sorted({fit["verdict"] for fit in fits}))
            loss = loss and f"{loss}; {epochs / usual:g} times the passes"
            lines.append(Line(f"{title}, {epochs} epochs", [str(len(fits)), *fields, verdicts], -gain, loss))
    text = """### Epochs

The same with other numbers of epochs, the learning rate falling over all of them. In brackets the deviation over seeds.
A row is lost, and in bold, where other epochs than the default have the better F1.

"""
    heads = ("data, noise, epochs", "seeds", "threshold", "F1", "accuracy", "verdicts")
    return text + format_judged(heads, lines)


def _compare_fits(fits: Sequence[Mapping[str, Any]], usual: Sequence[Mapping[str, Any]]) -> tuple[float, str]:
    """Return by how much F1 is ahead of that of the usual fits, and how, in words; empty where it is not ahead."""
    f1, accuracy = (fmean(fit[field] for fit in fits) - fmean(fit[field] for fit in usual) for field in _GAINS)
    cuts, usual_cuts = ([fit["threshold"] for fit in each if fit["threshold"] is not None] for each in (fits, usual))
    cut, usual_cut = (f"cuts at {fmean(each):.3f}" if each else "keeps everyone" for each in (cuts, usual_cuts))
    return f1, f"F1 by {f1:.4f}: it {cut}, the default {usual_cut}; accuracy {accuracy:+.3f}" if f1 > 0 else ""


def _format_fits(rows: Sequence[Row]) -> str:
    """Return threshold, F1 and accuracy for each fit of the same bits."""
    lines, titles = [], _get_titles(rows)
    for title in titles:
        own = [row.result["fits"] for row in rows if _get_title(row) == title]
        for name in FITS:
            gain, loss = _compare_fits([fits[name] for fits in own], [fits[DEFAULT_FIT] for fits in own])
            fields = [_format_spread([fits[name][field] for fits in own]) for field in ("threshold", "f1", "accuracy")]
            lines.append(Line(f"{title}, `{name}`", [str(len(own)), *fields], -gain, loss))
    n_ahead = sum(bool(line.loss) for line in lines)
    text = (
        "### Fits\n\nAll fits of the same bits with the default rule, and the published fit with the published rule "
        "(`density, scale`), over all initial weights and seeds. Another fit is ahead of the default in F1 in "
        f"{n_ahead} of {len(titles) * (len(FITS) - 1)} rows; these are lost, and in bold.\n\n"
    )
    return text + format_judged(("data, noise, fit", "trainings", "threshold", "F1", "accuracy"), lines)
