"""Access to the run of a review, at a service or in the folder of a training."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from mild_client import LocalSelector, MildClient, ResumeError, RunSpec
from mild_core import bitmap
from mild_core.audit import Annotations, Audit, evaluate_selection
from mild_core.inspect.histograms import DataMap, build_data_map, count_data_map
from mild_core.inspect.sample_table import build_sample_table
from mild_core.inspect.suspicion import TieBreaks, compare_rounds, measure_tie_breaks
from mild_core.results import Selection, is_identified
from mild_core.selection import select
from mild_core.statements import DrawPlan, plan_draws
from mild_core.types import AuditUse, RoundBits
from mild_trainer.clean_set import ClassLabel, CleanSet, fetch_clean_set, format_sample
from mild_trainer.data import Dataset
from mild_trainer.embedded import EmbeddedService
from mild_trainer.errors import DataError, ReviewError
from mild_trainer.review.review_list import ScoredSamples, format_data_row, format_row
from mild_trainer.settings import TrainSettings
from mild_trainer.training import preparation
from mild_trainer.training.history import find_set_round


@dataclass(frozen=True, slots=True)
class DrawnSamples:
    """Samples that were drawn at random for an audit.

    Attributes
    ----------
    rows
        Their rows of the list, in random order.
    choice
        The selection that was recorded with the draw, in words.
    n_answered
        Number of those that have a mark already.
    plans
        What draws of several sizes would bound.
    """

    rows: list[tuple[str, ...]]
    choice: str
    n_answered: int
    plans: list[DrawPlan]


class ReviewedRun(Protocol):
    """Run whose samples are reviewed.

    Attributes
    ----------
    change_label
        Label of the y axis of the data map.
    """

    change_label: ClassVar[str]

    def score_samples(self) -> ScoredSamples:
        """Return scores, clean set and audit of the round, for all samples."""

    def format_rows(self, samples: ScoredSamples, indices: NDArray[np.int64]) -> list[tuple[str, ...]]:
        """Return the row of the list for each sample of `indices`."""

    def make_data_map(self, samples: ScoredSamples) -> DataMap:
        """Return the numbers of samples by how often they were misclassified and how often that changed."""

    def draw_samples(self, n: int) -> DrawnSamples:
        """Draw samples to check at random; raise ReviewError if no service holds the run."""

    def read_draw(self) -> tuple[int, int, dict[str, Any] | None] | None:
        """Return what is known of the draw of the audit; None without one.

        Returns
        -------
        tuple
            Numbers of drawn samples without a mark, and of all drawn ones, and the selection that was recorded with the
            draw, as in the HTTP API, once all of them are marked.
        """

    def add_marks(self, marks: Audit) -> dict[str, Any]:
        """Add marks to the audit, and return the quality of the clean set on the audit, as in the HTTP API."""

    def read_selection(self) -> dict[str, Any]:
        """Return the selection of the round, measured on the audit, as in the HTTP API."""

    def select_with_audit(self) -> tuple[dict[str, Any], CleanSet]:
        """Return the selection with a fit calibrated by the audit, as in the HTTP API, and its set.

        Nothing is stored.
        """


@contextlib.contextmanager
def open_reviewed_run(run: str, url: str | None, api_key: str | None) -> Iterator[ReviewedRun]:
    """Open a run for a ``with`` block, and start the embedded service if it has the run.

    Parameters
    ----------
    run
        Folder of a training, or the id of a run at the service.
    url, api_key
        Address of the service, and the API key to send.
    """
    folder = Path(run)
    training = TrainingFolder.read(folder) if folder.is_dir() else None
    if url is not None:
        with MildClient(url, api_key=api_key) as client:
            yield ServiceRun(client, run if training is None else training.require_run_id(), training)
    elif training is None:
        raise ReviewError(f"{run} is no folder of a training; give one, or --url for a run of that name")
    elif training.run_id is None:
        yield LocalRun(training)
    elif not (folder / "service").is_dir():
        raise ReviewError(f"{folder} was trained with a service, which holds its run {training.run_id!r}; give --url")
    else:
        with EmbeddedService(folder / "service") as service, MildClient(service.url) as client:
            yield ServiceRun(client, training.run_id, training)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingFolder:
    """The folder of a finished training.

    Attributes
    ----------
    folder, settings
        Path of the folder, and settings of the training.
    n_samples, set_round
        Number of samples, and number of the round whose set the training delivers.
    run_id
        Id of the run at the service; None if the training selected in its own process.
    """

    folder: Path
    settings: TrainSettings
    n_samples: int
    set_round: int
    run_id: str | None

    @classmethod
    def read(cls, folder: Path) -> "TrainingFolder":
        """Read the folder of a training from its ``summary.json``; raise ReviewError if that is absent or damaged."""
        path = folder / "summary.json"
        try:
            summary = json.loads(path.read_text())
            settings = TrainSettings.from_json(summary["settings"])
            rounds, n_samples = summary["rounds"], summary["dataset"]["num_samples"]
        except FileNotFoundError as error:
            raise ReviewError(f"there is no {path}; give the --out of a finished training") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ReviewError(f"{path} is damaged ({error}); give the --out of a finished training") from error
        if not rounds:
            raise ReviewError(f"{folder} holds 0 finished rounds, at least 1 is needed; train one first")
        selections = [record["selection"] for record in rounds]
        return cls(folder, settings, n_samples, find_set_round(selections), selections[-1].get("run_id"))

    def read_summary(self) -> dict[str, Any]:
        """Return the content of ``summary.json``."""
        summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return summary

    def require_run_id(self) -> str:
        """Return the id of the run at the service; raise ReviewError if the training used no service."""
        if self.run_id is None:
            raise ReviewError(f"{self.folder} was trained without a service; leave --url out")
        return self.run_id

    def load_data(self) -> Dataset | None:
        """Return the data set with the labels of the training; None if its files are not available."""
        settings = self.settings
        try:
            return preparation.prepare_dataset(settings, preparation.read_dataset(replace(settings, download=False)))
        except DataError:
            return None

    def predict_labels(self, data: Dataset) -> NDArray[np.int64] | None:
        """Return the classes that the last network predicts for `data`, shape (n_samples,); None without a network."""
        weights = self.folder / "model.safetensors"
        if not weights.exists():
            return None
        import safetensors.torch  # importing torch is slow, and other lists do not need it

        from mild_trainer.training.trainer import Trainer

        trainer = Trainer(self.settings, data)
        safetensors.torch.load_model(trainer.train_state.model, weights)
        return trainer.predict_labels()


class LocalRun:
    """`ReviewedRun` of a training without a service, with bits in ``OUT/bits`` and its audit in ``OUT/audit.bits``."""

    change_label: ClassVar[str] = "changes between memorised and misclassified"

    def __init__(self, training: TrainingFolder, bits: Path | None = None) -> None:
        self._training = training
        self._bits_folder = bits or training.folder / "bits"
        self._audit_path = training.folder / "audit.bits"

    def is_complete(self) -> bool:
        """Return whether the bits of all rounds up to that of the set are there."""
        try:
            self._read_rounds()
        except ResumeError:
            return False
        return True

    def score_samples(self) -> ScoredSamples:
        """Return scores, clean set and audit of the round, for all samples."""
        rounds, selection = self._read_and_select()
        kept = bitmap.unpack(selection.bitmap, selection.n_samples)
        ties = measure_tie_breaks(rounds, selection, self._read_rounds()[1])
        return ScoredSamples(selection.scores, selection.identified_posterior, kept, self._read_audit(), ties)

    def format_rows(self, samples: ScoredSamples, indices: NDArray[np.int64]) -> list[tuple[str, ...]]:
        """Return the row of the list for each sample of `indices`."""
        return _format_training_rows(self._training, samples, indices)

    def make_data_map(self, samples: ScoredSamples) -> DataMap:
        """Return the numbers of samples by how often they were misclassified and how often that changed."""
        rounds, selection = self._read_and_select()
        return build_data_map(build_sample_table(rounds, selection))

    def draw_samples(self, n: int) -> DrawnSamples:
        """Draw samples to check at random; raise ReviewError, as no service holds the run."""
        raise ReviewError(
            f"{self._training.folder} was trained without a service, which holds the draw of an audit; "
            f"give --order random --limit {n}, or train with a service"
        )

    def read_draw(self) -> None:
        """Return None, as there is no draw without a service."""

    def add_marks(self, marks: Audit) -> dict[str, Any]:
        """Add marks to the audit, and return the quality of the clean set on the audit, as in the HTTP API."""
        selection, audit = self._select(), self._read_audit().merge(marks)
        temporary_path = self._audit_path.with_suffix(".part")
        temporary_path.write_bytes(audit.to_body())
        temporary_path.replace(self._audit_path)
        evaluation = evaluate_selection(selection.bitmap, selection.scores, audit)
        counts = {"clean": evaluation.clean, "kept": evaluation.kept, "kept_clean": evaluation.kept_clean}
        return {"round": self._training.set_round, **evaluation.summary(), **counts}

    def read_selection(self) -> dict[str, Any]:
        """Return the selection of the round, measured on the audit, as in the HTTP API."""
        selection, audit = self._select(), self._read_audit()
        measured = evaluate_selection(selection.bitmap, selection.scores, audit).summary() if audit.n_known else None
        return {**selection.summary(), "measured": measured}

    def select_with_audit(self) -> tuple[dict[str, Any], CleanSet]:
        """Return the selection with a fit calibrated by the audit, as in the HTTP API, and its set.

        Nothing is stored.
        """
        selection, audit = self._select("fit"), self._read_audit()
        kept = bitmap.unpack(selection.bitmap, selection.n_samples)
        clean_set = CleanSet(kept, selection.scores, selection.identified_posterior, audit=audit)
        return selection.summary(), _name_samples(self._training, clean_set)

    def _select(self, audit: AuditUse = "measure") -> Selection:
        """Select the clean set from the stored bits."""
        return self._read_and_select(audit)[1]

    def _read_and_select(self, audit: AuditUse = "measure") -> tuple[tuple[RoundBits, ...], Selection]:
        """Return the stored bits of all rounds up to that of the set, and the selection from them."""
        options = replace(self._training.settings.selection, audit=audit)
        rounds, labels = self._read_rounds()
        return rounds, select(rounds, options, Annotations(labels, self._read_audit()))

    def _read_rounds(self) -> tuple[tuple[RoundBits, ...], NDArray[np.integer] | None]:
        """Return the stored bits of all rounds up to that of the set, and the given labels."""
        training = self._training
        selector = LocalSelector(self._bits_folder)
        spec = RunSpec("review", training.n_samples, observe=training.settings.observe)
        return selector.read_rounds(spec, training.set_round + 1), selector.labels

    def _read_audit(self) -> Audit:
        n_samples = self._training.n_samples
        if not self._audit_path.exists():
            return Audit.empty(n_samples)
        return Audit.from_body(self._audit_path.read_bytes(), n_samples)


class ServiceRun:
    """`ReviewedRun` of a service; the folder of the training, if there is one, provides the labels."""

    change_label: ClassVar[str] = "changes from memorised to misclassified"

    def __init__(self, client: MildClient, run_id: str, training: TrainingFolder | None) -> None:
        self._client, self._run_id, self._training = client, run_id, training

    def score_samples(self) -> ScoredSamples:
        """Return scores, clean set and audit of the round, for all samples."""
        client, run_id = self._client, self._run_id
        n_samples, number = client.get_run(run_id)["num_samples"], self._find_round()
        scores, posterior = client.scores(run_id, round=number)
        kept = bitmap.unpack(client.selected(run_id, n_samples, number), n_samples)
        ties = self._measure_ties(number, n_samples, posterior)
        if not is_identified(client.selection(run_id, number)["verdict"]):
            posterior = np.full_like(posterior, np.nan)
        return ScoredSamples(scores, posterior, kept, client.audit(run_id, n_samples), ties)

    def _measure_ties(self, number: int, n_samples: int, posterior: NDArray[np.float32]) -> TieBreaks:
        """Return what orders samples of equal score in a round, as `measure_tie_breaks` has it from the bits."""
        client, run_id = self._client, self._run_id
        if client.sample(run_id, 0, number)["label"] is not None:
            by_class = {"per_class": True, "threshold": "f1"}
            _, posterior = client.scores(run_id, round=number, changes=by_class)
        learned, _ = client.scores(run_id, round=number, changes={"metric": "first-learned"})
        differences = [difference / n_epochs for difference, n_epochs in self._score_rounds(number, n_samples)]
        return TieBreaks(posterior, learned, compare_rounds(differences, n_samples))

    def _score_rounds(self, number: int, n_samples: int) -> Iterator[tuple[NDArray[np.floating], int]]:
        """Yield the scores ``mild-simple`` of each round of the selection by itself, and its number of epochs.

        A sample that was planted in an earlier round has the score NaN there.
        """
        client, run_id = self._client, self._run_id
        is_pooled = client.get_run(run_id)["selection"]["evidence"] == "pooled"
        alone = {"metric": "mild-simple", "evidence": "latest"}
        for position in range(0 if is_pooled else number, number + 1):
            difference, _ = client.scores(run_id, round=position, changes=alone)
            if position == 0 < number:
                difference[bitmap.unpack(client.planted(run_id, n_samples), n_samples)] = np.nan
            yield difference, client.selection(run_id, position, changes=alone)["epochs"]

    def format_rows(self, samples: ScoredSamples, indices: NDArray[np.int64]) -> list[tuple[str, ...]]:
        """Return the row of the list for each sample of `indices`."""
        if self._training is not None:
            return _format_training_rows(self._training, samples, indices)
        number = self._find_round()
        suggested = {sample["index"]: sample for sample in self._client.suggestions(self._run_id, number)}
        rows = []
        for index in indices.tolist():
            sample = suggested.get(index) or self._client.sample(self._run_id, index, number)
            rows.append(format_row(samples, index, sample["id"], sample["label"], sample.get("suggested")))
        return rows

    def make_data_map(self, samples: ScoredSamples) -> DataMap:
        """Return the numbers of samples by how often they were misclassified and how often they were forgotten."""
        client, run_id, number = self._client, self._run_id, self._find_round()
        difference, _ = client.scores(run_id, round=number, changes={"metric": "mild-simple"})
        forgotten, _ = client.scores(run_id, round=number, changes={"metric": "forgetting"})
        n_epochs = client.selection(run_id, number)["epochs"]
        has_score = ~np.isnan(difference)
        misclassified = np.rint((difference + n_epochs) / 2)
        changes = np.rint(forgotten - n_epochs * self._measure_never_memorised(number, difference.size))
        return count_data_map(misclassified[has_score], changes[has_score], samples.kept[has_score])

    def _measure_never_memorised(self, number: int, n_samples: int) -> NDArray[np.floating]:
        """Return the share of the rounds that saw a sample in which it was never memorised, shape (n_samples,).

        The metric ``forgetting`` has the epochs of these rounds in place of changes.
        """
        n_never, n_seen = np.zeros(n_samples), np.zeros(n_samples)
        for difference, n_epochs in self._score_rounds(number, n_samples):
            n_never += difference >= n_epochs - 0.5
            n_seen += ~np.isnan(difference)
        return n_never / np.maximum(n_seen, 1)

    def draw_samples(self, n: int) -> DrawnSamples:
        """Draw samples to check at random; raise ReviewError if no service holds the run."""
        draw = self._client.draw_audit(self._run_id, n, self._find_round())["draw"]
        options, number = draw["options"], draw["round"]
        rule = options["threshold"] + (f" with alpha {options['alpha']:g}" if options["threshold"] == "fdr" else "")
        fit = self._client.fit(self._run_id, number)
        cut = self._client.selection(self._run_id, number)["threshold"]["cut"]
        indices = np.random.default_rng().permutation(draw["indices"]).tolist()
        return DrawnSamples(
            # Whatever could sway a checker is empty.
            rows=[format_sample(*described, *[None] * 5) for described in self._describe_samples(indices, number)],
            choice=f"round {number}, metric {options['metric']}, fit {options['fit']}, rule {rule}",
            n_answered=draw["num_answered"],
            plans=[] if fit is None else plan_draws(np.cumsum(fit.counts).tolist(), cut),
        )

    def _describe_samples(self, indices: list[int], number: int) -> Iterator[tuple[int, str | None, ClassLabel]]:
        """Yield index, external id and given label of each sample."""
        data = None if self._training is None else self._training.load_data()
        for index in indices:
            if data is not None:
                yield index, data.get_sample_id(index), data.get_class_name(int(data.y_train[index]))
            else:
                sample = self._client.sample(self._run_id, index, number)
                yield index, sample["id"], sample["label"]

    def read_draw(self) -> tuple[int, int, dict[str, Any] | None] | None:
        """Return what is known of the draw of the audit; None without one."""
        draw = self._client.get_draw(self._run_id)
        if draw is None:
            return None
        n_unanswered = draw["n"] - draw["num_answered"]
        options = {name: value for name, value in draw["options"].items() if value is not None}
        recorded = None if n_unanswered else self._client.selection(self._run_id, draw["round"], changes=options)
        return n_unanswered, draw["n"], recorded

    def add_marks(self, marks: Audit) -> dict[str, Any]:
        """Add marks to the audit, and return the quality of the clean set on the audit, as in the HTTP API."""
        is_marked, clean = marks.masks
        self._client.put_audit(self._run_id, np.flatnonzero(is_marked).tolist(), clean[is_marked].tolist())
        return self._client.evaluation(self._run_id, self._find_round())

    def read_selection(self) -> dict[str, Any]:
        """Return the selection of the round, measured on the audit, as in the HTTP API."""
        return self._client.selection(self._run_id, self._find_round())

    def select_with_audit(self) -> tuple[dict[str, Any], CleanSet]:
        """Return the selection with a fit calibrated by the audit, as in the HTTP API, and its set.

        Nothing is stored.
        """
        answer, clean_set = fetch_clean_set(self._client, self._run_id, self._find_round(), {"audit": "fit"})
        return answer, clean_set if self._training is None else _name_samples(self._training, clean_set)

    def _find_round(self) -> int:
        """Return the number of the round that is reviewed: that of the training's set, or else the last finished one.

        It is 0 if no round is finished.
        """
        if self._training is not None:
            return self._training.set_round
        finished = [r["round"] for r in self._client.get_run(self._run_id)["rounds"] if r["state"] == "finished"]
        return max(finished, default=0)


def _format_training_rows(
    training: TrainingFolder, samples: ScoredSamples, indices: NDArray[np.int64]
) -> list[tuple[str, ...]]:
    """Format rows with the given labels of a training, and with other labels that its network suggests."""
    data = training.load_data()
    if data is None:
        return [format_row(samples, index, None, None, None) for index in indices.tolist()]
    predicted = training.predict_labels(data)
    return [format_data_row(samples, index, data, predicted) for index in indices.tolist()]


def _name_samples(training: TrainingFolder, clean_set: CleanSet) -> CleanSet:
    """Return a set with the ids, labels and suggestions of the training's data, if that is still available."""
    data = training.load_data()
    if data is None:
        return clean_set
    known = (clean_set.scores, clean_set.noisy_posterior, clean_set.audit)
    return CleanSet.from_dataset(data, training.predict_labels(data), clean_set.kept, *known)
