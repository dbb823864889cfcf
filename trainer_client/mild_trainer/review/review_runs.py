"""The runs that can be reviewed: one of a service, and one whose bits lie in the folder of a training."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from mild_client import LocalSelector, MildClient, RunSpec
from mild_core import bitmap
from mild_core.audit import Annotations, Audit, evaluate
from mild_core.inspect.histograms import DataMap, build_data_map, count_data_map
from mild_core.inspect.sample_table import build_sample_table
from mild_core.results import Selection
from mild_core.selection import select
from mild_core.types import AuditUse, RoundBits
from mild_trainer.data import Dataset
from mild_trainer.embedded import EmbeddedService
from mild_trainer.errors import DataError, ReviewError
from mild_trainer.review.review import Judged, row
from mild_trainer.settings import TrainSettings
from mild_trainer.training import prepare


class Reviewed(Protocol):
    """A run under review.

    Attributes
    ----------
    changes
        What its data map counts upwards.
    """

    changes: ClassVar[str]

    def judged(self) -> Judged:
        """All samples as the last finished round judges them."""

    def lines(self, judged: Judged, indices: NDArray[np.int64]) -> list[tuple[str, ...]]:
        """A line of the list for each of `indices`."""

    def counts(self, judged: Judged) -> DataMap:
        """How often samples were misclassified, and how often that changed."""

    def mark(self, marks: Audit) -> dict[str, Any]:
        """Add marks to the audit, and measure the set by all of it, in the wire's names."""

    def refit(self) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """The selection that knows the audit, in the wire's names, and its sorted indices; nothing is stored."""


@contextlib.contextmanager
def opened(run: str, url: str | None, api_key: str | None) -> Iterator[Reviewed]:
    """The run for the ``with`` block; an embedded service is started where it holds the run.

    Parameters
    ----------
    run
        Folder of a training, or a run's name at the service.
    url, api_key
        Of the service.

    Raises
    ------
    ReviewError
        If there is no such training, or its service is not named.
    """
    folder = Path(run)
    training = Training.read(folder) if folder.is_dir() else None
    if url is not None:
        with MildClient(url, api_key=api_key) as client:
            yield ServiceRun(client, run if training is None else training.named(), training)
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
class Training:
    """What the folder of a training tells.

    Attributes
    ----------
    folder, settings
        Where it is, and what was trained.
    n_samples, n_rounds
        Samples, and finished rounds.
    run_id
        The run's name at its service; None where the training selected by itself.
    """

    folder: Path
    settings: TrainSettings
    n_samples: int
    n_rounds: int
    run_id: str | None

    @classmethod
    def read(cls, folder: Path) -> "Training":
        """Read ``summary.json``."""
        path = folder / "summary.json"
        try:
            summary = json.loads(path.read_text())
            settings = TrainSettings.from_json(summary["settings"])
            rounds, n_samples = summary["rounds"], summary["dataset"]["num_samples"]
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise ReviewError(
                f"{path} is absent or damaged ({error!r}); give the --out of a finished training"
            ) from error
        if not rounds:
            raise ReviewError(f"{folder} holds 0 finished rounds, at least 1 is needed; train one first")
        return cls(folder, settings, n_samples, len(rounds), rounds[-1]["selection"].get("run_id"))

    def numbers(self) -> dict[str, Any]:
        """All of ``summary.json``."""
        numbers: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return numbers

    def named(self) -> str:
        """The run's name at its service."""
        if self.run_id is None:
            raise ReviewError(f"{self.folder} was trained without a service; leave --url out")
        return self.run_id

    def labels(self) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
        """Given labels, and those that the last network predicts, shape (n_samples,); None without data or network."""
        data = self.data()
        return (None, None) if data is None else (data.y_train, self.predicted(data))

    def data(self) -> Dataset | None:
        """The data set with the labels as trained on; None where it is not at hand."""
        settings = self.settings
        try:
            return prepare.prepare(settings, prepare.read(replace(settings, download=False)))
        except DataError:
            return None

    def predicted(self, data: Dataset) -> NDArray[np.int64] | None:
        """Classes of `data` that the last network predicts, shape (n_samples,); None without a network."""
        weights = self.folder / "model.safetensors"
        if not weights.exists():
            return None
        import safetensors.torch  # torch takes longer to load than a list without it to make

        from mild_trainer.training.trainer import Trainer

        trainer = Trainer(self.settings, data)
        safetensors.torch.load_model(trainer.trainee.model, weights)
        return trainer.predictions()


class LocalRun:
    """A run whose bits lie in ``OUT/bits``; its audit is kept as ``OUT/audit.bits``."""

    changes: ClassVar[str] = "changes between memorised and misclassified"

    def __init__(self, training: Training) -> None:
        self._training = training
        self._audit_path = training.folder / "audit.bits"

    def judged(self) -> Judged:
        """All samples as the last finished round judges them."""
        selection = self._selection()
        kept = bitmap.unpack(selection.bitmap, selection.n_samples)
        return Judged(selection.scores, selection.noisy_posterior, kept, self._audit())

    def lines(self, judged: Judged, indices: NDArray[np.int64]) -> list[tuple[str, ...]]:
        """A line of the list for each of `indices`."""
        return _lines(self._training, judged, indices)

    def counts(self, judged: Judged) -> DataMap:
        """How often samples were misclassified, and how often that changed."""
        rounds, selection = self._selected()
        return build_data_map(build_sample_table(rounds, selection))

    def mark(self, marks: Audit) -> dict[str, Any]:
        """Add marks to the audit, and measure the set by all of it, in the wire's names."""
        selection, audit = self._selection(), self._audit().merge(marks)
        part = self._audit_path.with_suffix(".part")
        part.write_bytes(audit.to_body())
        part.replace(self._audit_path)
        found = evaluate(selection.bitmap, selection.scores, audit)
        counts = {"clean": found.clean, "kept": found.kept, "kept_clean": found.kept_clean}
        return {"round": self._training.n_rounds - 1, **found.summary(), **counts}

    def refit(self) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """The selection that knows the audit, in the wire's names, and its sorted indices; nothing is stored."""
        selection = self._selection("fit")
        return selection.summary(), selection.indices

    def _selection(self, audit: AuditUse = "measure") -> Selection:
        return self._selected(audit)[1]

    def _selected(self, audit: AuditUse = "measure") -> tuple[tuple[RoundBits, ...], Selection]:
        training, settings = self._training, self._training.settings
        options = replace(settings.selection, audit=audit)
        spec = RunSpec("review", training.n_samples, observe=settings.observe, selection=options)
        selector = LocalSelector(training.folder / "bits")
        rounds = selector.read_rounds(spec, training.n_rounds)
        return rounds, select(rounds, options, Annotations(selector.labels, self._audit()))

    def _audit(self) -> Audit:
        n_samples = self._training.n_samples
        if not self._audit_path.exists():
            return Audit.empty(n_samples)
        return Audit.from_body(self._audit_path.read_bytes(), n_samples)


class ServiceRun:
    """A run of a service; the training's folder, where there is one, adds the labels."""

    changes: ClassVar[str] = "changes from memorised to misclassified"

    def __init__(self, client: MildClient, run_id: str, training: Training | None) -> None:
        self._client, self._run_id, self._training = client, run_id, training

    def judged(self) -> Judged:
        """All samples as the last finished round judges them."""
        client, run_id = self._client, self._run_id
        n_samples, number = client.get_run(run_id)["num_samples"], self._round()
        scores, posterior = client.scores(run_id, round=number)
        kept = bitmap.unpack(client.selected(run_id, n_samples, number), n_samples)
        return Judged(scores, posterior, kept, client.audit(run_id, n_samples))

    def lines(self, judged: Judged, indices: NDArray[np.int64]) -> list[tuple[str, ...]]:
        """A line of the list for each of `indices`."""
        if self._training is not None:
            return _lines(self._training, judged, indices)
        number = self._round()
        suggested = {told["index"]: told for told in self._client.suggestions(self._run_id, number)}
        found = []
        for index in indices.tolist():
            told = suggested.get(index) or self._client.sample(self._run_id, index, number)
            found.append(row(judged, index, told["id"], told["label"], told.get("suggested")))
        return found

    def counts(self, judged: Judged) -> DataMap:
        """How often samples were misclassified, and how often they were forgotten, in proportion to all epochs."""
        client, run_id, number = self._client, self._run_id, self._round()
        difference, _ = client.scores(run_id, round=number, changes={"metric": "mild-simple"})
        forgotten, _ = client.scores(run_id, round=number, changes={"metric": "forgetting"})
        n_epochs = client.selection(run_id, number)["epochs"]
        seen = ~np.isnan(difference)
        return count_data_map(np.rint((difference[seen] + n_epochs) / 2), np.rint(forgotten[seen]), judged.kept[seen])

    def mark(self, marks: Audit) -> dict[str, Any]:
        """Add marks to the audit, and measure the set by all of it, in the wire's names."""
        known, clean = marks.masks
        self._client.put_audit(self._run_id, np.flatnonzero(known).tolist(), clean[known].tolist())
        return self._client.evaluation(self._run_id, self._round())

    def refit(self) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """The selection that knows the audit, in the wire's names, and its sorted indices; nothing is stored."""
        answer = self._client.selection(self._run_id, self._round(), changes={"audit": "fit"})
        return answer, np.array(answer.pop("indices"), dtype=np.int64)

    def _round(self) -> int:
        """The last finished round, or else the first one."""
        finished = [r["round"] for r in self._client.get_run(self._run_id)["rounds"] if r["state"] == "finished"]
        return max(finished, default=0)


def _lines(training: Training, judged: Judged, indices: NDArray[np.int64]) -> list[tuple[str, ...]]:
    given, predicted = training.labels()
    found = []
    for index in indices.tolist():
        label = None if given is None else int(given[index])
        guess = None if predicted is None else int(predicted[index])
        found.append(row(judged, index, None, label, None if guess == label else guess))
    return found
