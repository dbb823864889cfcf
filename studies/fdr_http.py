"""Error control by a random audit through HTTP: a real service draws, gets the answers and makes its statements.

Part of `studies.fdr` (``--http``). Every draw has a separate run with the bits of a recording; the service draws
(``POST …/audit/draw``), the true answers are put (``PUT …/audit``), and what the service then states about its sets is
compared with the truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from benchmarks.record_families import FAMILIES
from benchmarks.recordings import FOLDER, Recording
from benchmarks.timing import describe_machine
from mild_client import MildClient
from mild_core.scores import score_samples
from mild_core.types import EpochBits, RunSpec

HEADING = "## Through HTTP"
PATHS = (
    FOLDER / "digits_symmetric-0.4_e150_s1.npz",
    FAMILIES / "features_cifar-linear_human-worse_e20_lr0.002_s1.npz",
    FAMILIES / "features_cifar-linear_none_e20_lr0.002_s1.npz",
)
"""One of the old sequences, a head on features with human noise, and one without noise; all of the judging half."""
N_DRAWN, ALPHA, COVERAGE_BAR = 100, 0.1, 0.9


@dataclass(frozen=True, slots=True)
class Statement:
    """Statements of the service after one draw, compared with the truth.

    Attributes
    ----------
    share
        Wrong labels among the kept samples that were not drawn; 0 where no cut reached alpha.
    empty
        No cut reached alpha.
    upper_holds, stored_upper_holds
        The share of wrong labels among the undrawn is at most `upper`: in the set of ``threshold=fdr``, and in the
        stored set, which was not cut by the draw.
    bounds_hold
        Precision and recall of every cut are at least their bounds.
    """

    share: float
    empty: bool
    upper_holds: bool
    stored_upper_holds: bool
    bounds_hold: bool


@dataclass(frozen=True, slots=True)
class HttpRow:
    """The statements of all draws on one recording."""

    name: str
    noise: float
    statements: Sequence[Statement]

    @property
    def share(self) -> float:
        """Mean share of wrong labels."""
        return fmean(each.share for each in self.statements)

    @property
    def two_errors(self) -> float:
        """Two standard errors of `share`."""
        return 2 * stdev(each.share for each in self.statements) / float(np.sqrt(len(self.statements)))

    def rate(self, name: str) -> float:
        """Share of the draws in which a field of `Statement` is true."""
        return fmean(bool(getattr(each, name)) for each in self.statements)

    @property
    def missed_bars(self) -> list[str]:
        """Bars that are missed."""
        missed_bars = [] if self.share <= ALPHA + self.two_errors else ["share"]
        coverages = ("upper_holds", "stored_upper_holds", "bounds_hold")
        return missed_bars + [name for name in coverages if self.rate(name) < COVERAGE_BAR]


def collect_statements(client: MildClient, recording: Recording, n_draws: int, n_drawn: int = N_DRAWN) -> HttpRow:
    """Draw and answer audits of one recording, each in a separate run, and compare the statements with the truth."""
    is_scored = score_samples(recording.evidence(), "mild-simple").scored
    noise = float((~recording.is_clean[is_scored]).mean())
    statements = [_collect_statement(client, recording, f"fdr-{number}", n_drawn) for number in range(n_draws)]
    return HttpRow(recording.name, noise, statements)


def _collect_statement(client: MildClient, recording: Recording, run_id: str, n_drawn: int) -> Statement:
    (round_,), clean = recording.rounds, recording.is_clean
    client.open_run(RunSpec(run_id, recording.n_samples))
    if recording.planted is not None:
        client.put_planted(run_id, recording.planted)
    for epoch, bits in enumerate(round_.correct_eval):
        client.put_epoch(run_id, 0, epoch, EpochBits(recording.n_samples, bits))
    client.finish(run_id, 0)
    drawn = client.draw_audit(run_id, n_drawn, changes={"alpha": ALPHA})["draw"]["indices"]
    client.put_audit(run_id, drawn, clean[drawn].tolist())
    by_draw = {"threshold": "fdr", "alpha": ALPHA}
    cut, stored_selection = (client.selection(run_id, changes=changes) for changes in (by_draw, None))
    cuts, (scores, _) = client.sweep(run_id, 0)["cuts"], client.scores(run_id)
    client.delete_run(run_id)
    empty = not cut["guarantee"]["holds"]
    shares = [_measure_wrong_share(selection["indices"], drawn, clean) for selection in (cut, stored_selection)]
    uppers = [selection["guarantee"]["upper"] for selection in (cut, stored_selection)]
    is_scored = score_samples(recording.evidence(), "mild-simple").scored
    values, is_right = scores[is_scored], clean[is_scored]
    return Statement(
        share=0.0 if empty else shares[0],
        empty=empty,
        upper_holds=shares[0] <= uppers[0] + 1e-12,
        stored_upper_holds=shares[1] <= uppers[1] + 1e-12,
        bounds_hold=all(
            _are_valid(each["bounds"], is_right[values <= each["value"] + 1e-6], is_right) for each in cuts
        ),
    )


def _measure_wrong_share(kept: list[int], drawn: list[int], clean: NDArray[np.bool_]) -> float:
    undrawn = np.setdiff1d(kept, drawn)
    return float((~clean[undrawn]).mean()) if undrawn.size else 0.0


def _are_valid(bounds: dict[str, float], kept: NDArray[np.bool_], everyone: NDArray[np.bool_]) -> bool:
    """Whether both bounds of a cut are at most the truth; `kept` and `everyone` say whose label is right."""
    precision = kept.mean() if kept.size else 1.0
    recall = kept.sum() / max(everyone.sum(), 1)
    return bool(bounds["precision"] <= precision + 1e-12 and bounds["recall"] <= recall + 1e-12)


def format_report(rows: Sequence[HttpRow], command: str) -> str:
    """Return the section of the report."""
    missed_bars = [f"{row.name}: {', '.join(row.missed_bars)}" for row in rows if row.missed_bars]
    lines = [
        HEADING,
        "",
        f"`{command}`, {describe_machine('numpy', 'scipy')}; {len(rows[0].statements)} draws of {N_DRAWN} on each.",
        "",
        "Every draw is in a run of its own, by a real service (one process, embedded store) that the system seeds.",
        "",
        f"- alpha {ALPHA:g}: mean share at most alpha + 2 s.e., `upper` and all bounds at once right in "
        f"{COVERAGE_BAR:.0%}: {'MISSED by ' + '; '.join(missed_bars) if missed_bars else 'reached on each'}",
        "",
        "| sequence | noise | mean share | 2 s.e. | P(empty) | `upper` holds | that of the stored set | bounds hold |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {row.name} | {row.noise:.3f} | {row.share:.3f} | {row.two_errors:.3f} | {row.rate('empty'):.2f} "
            f"| {row.rate('upper_holds'):.2f} | {row.rate('stored_upper_holds'):.2f} | {row.rate('bounds_hold'):.2f} |"
            for row in rows
        ),
        "",
    ]
    return "\n".join(lines)
