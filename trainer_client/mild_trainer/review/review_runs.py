"""Access to the run of a review, at a service or in the folder of a training."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from mild_client import LocalSelector, MildClient, ResumeError, RunSpec
from mild_client.atomic_write import write_atomically
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
from mild_trainer.review.review_list import ScoredSamples
from mild_trainer.settings import TrainSettings
from mild_trainer.training import preparation
from mild_trainer.training.history import find_set_round

Samples = TypeVar("Samples", bound=CleanSet)


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


@contextlib.contextmanager
def open_reviewed_run(run: str, url: str | None, api_key: str | None) -> "Iterator[ReviewedRun]":
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
    summary
        Content of ``summary.json``.
    data
        The data set with the labels of the training; None reads it from its files.
    """

    folder: Path
    settings: TrainSettings
    n_samples: int
    set_round: int
    run_id: str | None
    summary: Mapping[str, Any]
    data: Dataset | None = None

    @classmethod
    def read(cls, folder: Path, data: Dataset | None = None) -> "TrainingFolder":
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
        set_round, run_id = find_set_round(selections), selections[-1].get("run_id")
        return cls(folder, settings, n_samples, set_round, run_id, summary, data)

    def require_run_id(self) -> str:
        """Return the id of the run at the service; raise ReviewError if the training used no service."""
        if self.run_id is None:
            raise ReviewError(f"{self.folder} was trained without a service; leave --url out")
        return self.run_id

    def load_data(self) -> Dataset | None:
        """Return the data set with the labels of the training; None if its files are not available."""
        if self.data is not None:
            return self.data
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

    def name_samples(self, samples: Samples) -> Samples:
        """Return a set with ids, labels and suggestions of the training's data, if that is still available."""
        data = self.load_data()
        return samples if data is None else samples.name_samples(data, self.predict_labels(data))


class LocalRun:
    """The run of a training without a service, with bits in ``OUT/bits`` and its audit in ``OUT/audit.bits``."""

    change_label: ClassVar[str] = "changes between memorised and misclassified"

    def __init__(self, training: TrainingFolder, bits: Path | None = None) -> None:
        self.training = training
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
        rounds, labels, selection = self._select()
        ties = measure_tie_breaks(rounds, selection, labels)
        return ScoredSamples.from_selection(selection, audit=self._read_audit(), ties=ties)

    def name_samples(self, samples: ScoredSamples, indices: NDArray[np.int64]) -> ScoredSamples:
        """Return the samples with ids, labels and suggestions, as far as known."""
        return self.training.name_samples(samples)

    def make_data_map(self, samples: ScoredSamples) -> DataMap:
        """Return the numbers of samples by how often they were misclassified and how often that changed."""
        rounds, _, selection = self._select()
        return build_data_map(build_sample_table(rounds, selection))

    def draw_samples(self, n: int) -> DrawnSamples:
        """Draw samples to check at random; raise ReviewError, as no service holds the run."""
        raise ReviewError(
            f"{self.training.folder} was trained without a service, which holds the draw of an audit; "
            f"give --order random --limit {n}, or train with a service"
        )

    def read_draw(self) -> None:
        """Return None, as there is no draw without a service."""

    def add_marks(self, marks: Audit) -> dict[str, Any]:
        """Add marks to the audit, and return the quality of the clean set on the audit, as in the HTTP API."""
        (*_, selection), audit = self._select(), self._read_audit().merge(marks)
        write_atomically(self._audit_path, audit.to_body())
        evaluation = evaluate_selection(selection.bitmap, selection.scores, audit)
        return {"round": self.training.set_round, **evaluation.summary_with_counts()}

    def read_selection(self) -> dict[str, Any]:
        """Return the selection of the round, measured on the audit, as in the HTTP API."""
        (*_, selection), audit = self._select(), self._read_audit()
        measured = evaluate_selection(selection.bitmap, selection.scores, audit).summary() if audit.n_checked else None
        return {**selection.summary(), "measured": measured}

    def select_with_audit(self) -> tuple[dict[str, Any], CleanSet]:
        """Return the selection with a fit calibrated by the audit, as in the HTTP API, and its set.

        Nothing is stored.
        """
        *_, selection = self._select("fit")
        clean_set = CleanSet.from_selection(selection, audit=self._read_audit())
        return selection.summary(), self.training.name_samples(clean_set)

    def _select(
        self, audit: AuditUse = "measure"
    ) -> tuple[tuple[RoundBits, ...], NDArray[np.integer] | None, Selection]:
        """Return the stored bits of all rounds up to that of the set, the given labels, and the selection from them."""
        options = replace(self.training.settings.selection, audit=audit)
        rounds, labels = self._read_rounds()
        return rounds, labels, select(rounds, options, Annotations(labels, self._read_audit()))

    def _read_rounds(self) -> tuple[tuple[RoundBits, ...], NDArray[np.integer] | None]:
        """Return the stored bits of all rounds up to that of the set, and the given labels."""
        selector = LocalSelector(self._bits_folder)
        spec = RunSpec("review", self.training.n_samples, observe=self.training.settings.observe)
        return selector.read_rounds(spec, self.training.set_round + 1), selector.labels

    def _read_audit(self) -> Audit:
        n_samples = self.training.n_samples
        if not self._audit_path.exists():
            return Audit.empty(n_samples)
        return Audit.from_body(self._audit_path.read_bytes(), n_samples)


class ServiceRun:
    """A run of a service; the folder of the training, if there is one, provides the labels."""

    change_label: ClassVar[str] = "changes from memorised to misclassified"

    def __init__(self, client: MildClient, run_id: str, training: TrainingFolder | None) -> None:
        self.client, self.run_id, self.training = client, run_id, training

    def score_samples(self) -> ScoredSamples:
        """Return scores, clean set and audit of the round, for all samples."""
        client, run_id = self.client, self.run_id
        n_samples, number = client.get_run(run_id)["num_samples"], self._round
        scores, posterior = client.scores(run_id, round=number)
        kept = bitmap.unpack(client.selected(run_id, n_samples, number), n_samples)
        ties = self._measure_ties(number, n_samples, posterior)
        if not is_identified(client.selection(run_id, number)["verdict"]):
            posterior = np.full_like(posterior, np.nan)
        audit = client.audit(run_id, n_samples)
        return ScoredSamples(kept=kept, scores=scores, noisy_posterior=posterior, audit=audit, ties=ties)

    def _measure_ties(self, number: int, n_samples: int, posterior: NDArray[np.float32]) -> TieBreaks:
        """Return what orders samples of equal score in a round, as `measure_tie_breaks` has it from the bits."""
        client, run_id = self.client, self.run_id
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
        client, run_id = self.client, self.run_id
        is_pooled = client.get_run(run_id)["selection"]["evidence"] == "pooled"
        alone = {"metric": "mild-simple", "evidence": "latest"}
        for position in range(0 if is_pooled else number, number + 1):
            difference, _ = client.scores(run_id, round=position, changes=alone)
            if position == 0 < number:
                difference[bitmap.unpack(client.planted(run_id, n_samples), n_samples)] = np.nan
            yield difference, client.selection(run_id, position, changes=alone)["epochs"]

    def name_samples(self, samples: ScoredSamples, indices: NDArray[np.int64]) -> ScoredSamples:
        """Return the samples with ids, labels and suggestions; without a training, only those of `indices`."""
        if self.training is not None:
            return self.training.name_samples(samples)
        suggested = {sample["index"]: sample for sample in self.client.suggestions(self.run_id, self._round)}
        columns: dict[str, list[Any]] = {name: [None] * samples.kept.size for name in ("id", "label", "suggested")}
        for index in indices.tolist():
            sample = suggested.get(index) or self.client.sample(self.run_id, index, self._round)
            for name, values in columns.items():
                values[index] = sample.get(name)
        return replace(samples, ids=columns["id"], labels=columns["label"], suggested=columns["suggested"])

    def make_data_map(self, samples: ScoredSamples) -> DataMap:
        """Return the numbers of samples by how often they were misclassified and how often they were forgotten."""
        client, run_id, number = self.client, self.run_id, self._round
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
        draw = self.client.draw_audit(self.run_id, n, self._round)["draw"]
        options, number = draw["options"], draw["round"]
        rule = options["threshold"] + (f" with alpha {options['alpha']:g}" if options["threshold"] == "fdr" else "")
        fit = self.client.fit(self.run_id, number)
        cut = self.client.selection(self.run_id, number)["threshold"]["cut"]
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
        data = None if self.training is None else self.training.load_data()
        for index in indices:
            if data is not None:
                yield index, data.get_sample_id(index), data.get_class_name(int(data.y_train[index]))
            else:
                sample = self.client.sample(self.run_id, index, number)
                yield index, sample["id"], sample["label"]

    def read_draw(self) -> tuple[int, int, dict[str, Any] | None] | None:
        """Return what is known of the draw of the audit; None without one.

        Returns
        -------
        tuple
            Numbers of drawn samples without a mark, and of all drawn ones, and the selection that was recorded with the
            draw, as in the HTTP API, once all of them are marked.
        """
        draw = self.client.get_draw(self.run_id)
        if draw is None:
            return None
        n_unanswered = draw["n"] - draw["num_answered"]
        options = {name: value for name, value in draw["options"].items() if value is not None}
        recorded = None if n_unanswered else self.client.selection(self.run_id, draw["round"], changes=options)
        return n_unanswered, draw["n"], recorded

    def add_marks(self, marks: Audit) -> dict[str, Any]:
        """Add marks to the audit, and return the quality of the clean set on the audit, as in the HTTP API."""
        is_marked, clean = marks.masks
        self.client.put_audit(self.run_id, np.flatnonzero(is_marked).tolist(), clean[is_marked].tolist())
        return self.client.evaluation(self.run_id, self._round)

    def read_selection(self) -> dict[str, Any]:
        """Return the selection of the round, measured on the audit, as in the HTTP API."""
        return self.client.selection(self.run_id, self._round)

    def select_with_audit(self) -> tuple[dict[str, Any], CleanSet]:
        """Return the selection with a fit calibrated by the audit, as in the HTTP API, and its set.

        Nothing is stored.
        """
        answer, clean_set = fetch_clean_set(self.client, self.run_id, self._round, {"audit": "fit"})
        return answer, clean_set if self.training is None else self.training.name_samples(clean_set)

    @cached_property
    def _round(self) -> int:
        """Number of the round that is reviewed: that of the training's set, or else the last finished one.

        It is 0 if no round is finished.
        """
        if self.training is not None:
            return self.training.set_round
        finished = [r["round"] for r in self.client.get_run(self.run_id)["rounds"] if r["state"] == "finished"]
        return max(finished, default=0)


ReviewedRun: TypeAlias = LocalRun | ServiceRun
"""Run whose samples are reviewed; `change_label` is the label of the y axis of its data map."""
