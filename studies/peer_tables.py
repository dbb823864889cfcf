"""Tables that compare our selection with the peers, lost rows first, from rows with a result by method and measure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

from studies.programme import Line, Row, add_legend, format_judged, format_table, save_plot

OURS, EVERYONE, RIGHT = "mild-selection", "everyone", "true clean set"
PEERS = (
    "mean loss, Gaussian mixture",
    "AUM, same passes",
    "AUM, threshold samples",
    "cleanlab, in sample",
    "cleanlab, held out",
    "wrong events, beta mixture",
    "votes of neighbours",
    EVERYONE,
)
_WHY_AHEAD = {
    "mean loss, Gaussian mixture": "it sums real numbers, where a bit only tells right from wrong",
    "AUM, same passes": "it sums real margins, of which a bit knows the sign alone",
    "AUM, threshold samples": "it sums real margins, of passes without planted labels",
    "cleanlab, in sample": "it reads the probabilities of all classes",
    "cleanlab, held out": "its networks have not seen the labels that they judge",
    "wrong events, beta mixture": "its ranking is ours, its mixture cuts elsewhere",
    "votes of neighbours": "it reads the features, which the head reduces to one line a class",
    EVERYONE: "the noise is little, or hardly to be found, and each cut drops right labels",
}
_MEASURES = {"auc": "AUC", "f1": "F1"}
_MARGIN = 0.01
"""Greatest gap of a row that is behind only slightly."""


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one file of features and one noise, which differ in their seeds."""

    features: str
    noise: str
    rows: tuple[Row, ...]

    def list_values(self, method: str, measure: str) -> list[float]:
        """Values of a measure that are there, one for each seed."""
        values = [row.result["methods"].get(method, {}).get(measure) for row in self.rows]
        return [float(value) for value in values if value is not None]

    def mean(self, method: str, measure: str) -> float | None:
        """Mean over the seeds; None where the measure does not apply."""
        values = self.list_values(method, measure)
        return fmean(values) if values else None

    def format_mean(self, method: str, measure: str) -> str:
        """Mean over the seeds, as printed."""
        mean = self.mean(method, measure)
        return "-" if mean is None else f"{mean:.3f}"

    def format_spread(self, method: str, measure: str) -> str:
        """Mean over the seeds, with the least and the greatest value."""
        values = self.list_values(method, measure)
        return f"{fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})" if values else "-"

    def find_best_peer(self, measure: str) -> tuple[str, float] | None:
        """Peer with the highest mean, and that mean; None where the measure does not apply."""
        means = {name: self.mean(name, measure) for name in PEERS}
        measured = {name: mean for name, mean in means.items() if mean is not None}
        return max(measured.items(), key=lambda item: item[1]) if measured else None

    def measure_gap(self, measure: str) -> float:
        """Our mean less that of the best peer; 0 where the measure does not apply."""
        best, ours = self.find_best_peer(measure), self.mean(OURS, measure)
        return 0.0 if best is None or ours is None else round(ours, 3) - round(best[1], 3)

    @property
    def gap(self) -> float:
        """The smaller one of the gaps of both measures."""
        return min(self.measure_gap(measure) for measure in _MEASURES)

    def explain(self) -> str:
        """Say in words which peers are ahead, by how much, and why; empty where none is."""
        reasons = []
        for measure, heading in _MEASURES.items():
            best = self.find_best_peer(measure)
            if best is None or self.measure_gap(measure) >= 0:
                continue
            reason = f"{heading}: {best[0]} by {-self.measure_gap(measure):.3f}, {_WHY_AHEAD[best[0]]}"
            reachable = self.mean(OURS, "best_f1")
            if measure == "f1" and reachable is not None:
                reason += f"; the best one cut of our scores has {reachable:.3f}"
            reasons.append(reason)
        n_whole = sum(row.result["verdict"] in ("unimodal", "learning") for row in self.rows)
        if reasons and n_whole:
            reasons.append(f"{n_whole} of {len(self.rows)} verdicts keep everyone")
        return "; ".join(reasons)


def group_rows(rows: Sequence[Row]) -> list[Group]:
    """Group the rows that differ in their seeds alone, the one that is furthest behind first."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((str(row.case["features"]), str(row.case["noise"])), []).append(row)
    grouped = [Group(features, noise, tuple(own)) for (features, noise), own in groups.items()]
    return sorted(grouped, key=lambda group: group.gap)


def format_comparison(rows: Sequence[Row], plot: Path) -> str:
    """Return the comparison with the best peer, lost rows first, then every method by measure, and write a plot."""
    groups = group_rows(rows)
    parts = [_format_summary(groups), _format_lines(groups)]
    parts.append(save_plot(plot_groups(groups), plot))
    measures = {
        "auc": ("Ranking: AUC", (OURS, *PEERS[:-1])),
        "f1": ("Set: F1 of the right labels", (OURS, *(peer for peer in PEERS if peer != "AUM, same passes"))),
        "found": ("Wrong labels found among as many most suspicious samples as there are", (OURS, *PEERS[:-1])),
        "accuracy": (
            "Accuracy of a head that is trained on the set alone, on images that no training has seen",
            (OURS, *(peer for peer in PEERS if peer != "AUM, same passes"), RIGHT),
        ),
    }
    for measure, (heading, methods) in measures.items():
        lines = [
            [_get_name(group), *(group.format_mean(method, measure) for method in methods)]
            for group in sorted(groups, key=_get_name)
        ]
        parts.append(f"### {heading}\n")
        if measure == "accuracy":
            parts.append(_format_accuracy_summary(groups))
        parts.append(format_table(("features, noise", *methods), lines))
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def format_prior_comparison(rows: Sequence[Row]) -> str:
    """Return what a declared class prior changes, and the comparison where the judges of our passes get it too."""
    groups = group_rows(_apply_prior(rows))
    pairs = {(group.features, group.noise): [group] for group in sorted(group_rows(rows), key=_get_name)}
    for group in groups:
        pairs[group.features, group.noise].append(group)
    lines = []
    for without, group in pairs.values():
        cells = [each.format_mean(OURS, measure) for measure in ("auc", "f1", "accuracy") for each in (without, group)]
        lines.append([_get_name(group), *cells, *(group.format_mean(name, "accuracy") for name in (EVERYONE, RIGHT))])
    heads = [f"{measure}, {which} prior" for measure in ("AUC", "F1", "accuracy") for which in ("no", "with")]
    changes = format_table(("features, noise", *heads, f"accuracy, {EVERYONE}", f"accuracy, {RIGHT}"), lines)
    return f"{_PRIOR_TEXT}\n{changes}\n{_format_summary(groups)}\n{_format_lines(groups)}"


def _apply_prior(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with the measures of a declared class prior, of the methods that got it."""
    return [
        replace(
            row,
            result={
                **row.result,
                "methods": {**row.result["methods"], **row.result["methods_with_prior"]},
                "verdict": row.result["verdict_with_prior"],
            },
        )
        for row in rows
    ]


_PRIOR_TEXT = """### With a declared class prior

The same trainings with `--class-prior balanced`, which is true here: recorded with a bias for each class, so that all
classes are predicted as often. First what that changes, then the comparison with the peers: those that judge our passes
judge the logits with this bias, the others are as above.
"""


def _get_name(group: Group) -> str:
    return f"{group.features}, {group.noise}"


def format_headline(rows: Sequence[Row], features: str, noises: Sequence[str], link: str) -> list[str]:
    """Return lines of a table: of each noise our F1, with a class prior too, the best peer's, and everyone's."""
    groups, with_prior = (
        {(group.features, group.noise): group for group in group_rows(each)} for each in (rows, _apply_prior(rows))
    )
    lines = []
    for noise in noises:
        group = groups.get((features, noise))
        best = None if group is None else group.find_best_peer("f1")
        if group is not None and best is not None:
            ours = f"{group.format_spread(OURS, 'f1')}; {with_prior[features, noise].format_mean(OURS, 'f1')}"
            cells = (ours, f"{best[1]:.3f}, {best[0]}", group.format_mean(EVERYONE, "f1"))
            lines.append(f"| {link} | {noise} | {' | '.join(cells)} |")
    return lines


def _format_summary(groups: Sequence[Group]) -> str:
    """Say in how many rows we are ahead of every peer, and how far behind in the others at most."""
    n_won = sum(group.gap >= 0 for group in groups)
    counts = ", ".join(
        f"on {heading} in {sum(group.measure_gap(measure) >= 0 for group in groups)}"
        for measure, heading in _MEASURES.items()
    )
    n_far = sum(group.gap < -_MARGIN for group in groups)
    return (
        f"Level with or ahead of every peer on both measures in {n_won} of {len(groups)} rows, {counts}; behind by "
        f"more than {_MARGIN:g} in {n_far}, and by {max(0.0, -min(group.gap for group in groups)):.3f} at most.\n"
    )


def _format_accuracy_summary(groups: Sequence[Group]) -> str:
    """Say in how many rows training on our set is better and worse than training on all labels."""
    pairs = [(group.mean(OURS, "accuracy"), group.mean(EVERYONE, "accuracy")) for group in groups]
    gaps = [ours - everyone for ours, everyone in pairs if ours is not None and everyone is not None]
    n_ahead, n_behind = sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps)
    return (
        f"Beside training on everyone, our set is ahead in {n_ahead} of {len(gaps)} rows, level in "
        f"{len(gaps) - n_ahead - n_behind} and behind in {n_behind}.\n"
    )


def _format_lines(groups: Sequence[Group]) -> str:
    """Return the table of all groups and their best peers, with the reasons for what is lost."""
    heads = ("features, noise", "seeds", "noise rate", "AUC", "AUC, best peer", "F1", "F1, best peer", "F1, everyone")
    return format_judged((*heads, "verdicts"), map(_make_line, groups))


def _make_line(group: Group) -> Line:
    counts = Counter(str(row.result["verdict"]) for row in group.rows)
    cells = [str(len(group.rows)), f"{fmean(float(row.result['noise_rate']) for row in group.rows):.3f}"]
    for measure in _MEASURES:
        best = group.find_best_peer(measure)
        cells += [group.format_spread(OURS, measure), "-" if best is None else f"{best[1]:.3f}, {best[0]}"]
    cells += [group.format_mean(EVERYONE, "f1"), ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())]
    return Line(_get_name(group), cells, group.gap, group.explain())


def plot_groups(groups: Sequence[Group]) -> Figure:
    """Plot AUC and F1 of every method, a line for each file of features and noise."""
    ordered = sorted(groups, key=_get_name, reverse=True)
    figure = Figure(figsize=(11, 1.2 + 0.3 * len(ordered)))
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (measure, heading) in zip(axes, _MEASURES.items(), strict=True):
        for position, (method, marker) in enumerate(zip((*PEERS, OURS), "ov^s<>dxD", strict=True)):
            if (measure, method) == ("auc", EVERYONE):
                continue
            means = [(group.mean(method, measure), y) for y, group in enumerate(ordered)]
            points = [(mean, y) for mean, y in means if mean is not None]
            if points:
                style = {"color": "black", "zorder": 3} if method == OURS else {"color": f"C{position}", "alpha": 0.7}
                axis.scatter(*zip(*points, strict=True), marker=marker, s=28, label=method, **style)
        axis.set_xlabel(heading)
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(ordered)), [_get_name(group) for group in ordered])
    add_legend(figure)
    return figure
