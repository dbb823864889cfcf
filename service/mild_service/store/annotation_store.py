"""Given labels and audits of a run, stored as one field each in chunk hashes."""

import hashlib
from collections.abc import Sequence
from typing import Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from mild_core.audit import Audit
from mild_core.draw import DrawChoice
from mild_service.models import AnnotationName, AnnotationRef, Run
from mild_service.store import codec
from mild_service.store.context import Argument, StorePart
from mild_service.store.keys import annotation_field
from mild_service.store.values import commit_values, read_values, restore_values

PutOutcome: TypeAlias = Literal["set", "same", "moved", "frozen"]
"""Outcome of storing labels or an audit; only ``set`` changes data.

``same`` means that the content is stored already, ``moved`` that other content was stored in the meantime, and
``frozen`` that the run has epochs, so that labels can no longer change."""


class AnnotationStore(StorePart):
    """Reads and writes labels and audits.

    A write replaces the content to which the given record of the run refers, and no other content.
    """

    async def put_labels(
        self,
        run: Run,
        labels: NDArray[np.integer],
        name: Literal["labels", "logged_labels"] = "labels",
        compared: AnnotationRef | None = None,
    ) -> tuple[PutOutcome, str]:
        """Store labels with the smallest sufficient integer width; return the outcome and their digest.

        If the same labels are stored, values of them that are missing or damaged are restored.

        The outcome is ``moved``, too, if the run has labels from the other source that `labels` were not compared with.

        Parameters
        ----------
        run
            The current record of the run.
        labels
            Shape (n_samples,), values in 0..2**32-1.
        name
            The annotation that they are.
        compared
            The labels from the other source that they were compared with; None if there are none.
        """
        return await self._put_values(run, name, codec.split_integers([labels]), compared=compared)

    async def put_audit(self, run: Run, audit: Audit, draw: DrawChoice | None = None) -> tuple[PutOutcome, str]:
        """Store an audit; return the outcome and the digest of the audit.

        Parameters
        ----------
        run
            The current record of the run.
        audit
            The audit.
        draw
            The choice that is recorded with its random draw; None for an audit without a draw.
        """
        planes = [audit.checked, audit.clean] if draw is None else [audit.checked, audit.clean, audit.drawn]
        return await self._put_values(run, "audit", codec.split_chunks(planes), draw)

    async def read_labels(
        self,
        run: Run,
        ref: AnnotationRef,
        samples: NDArray[np.int64],
        name: Literal["labels", "logged_labels"] = "labels",
    ) -> NDArray[np.int64]:
        """Read the labels of some samples.

        Parameters
        ----------
        run, ref
            The run, and the reference to its labels.
        samples
            Shape (n,), ascending indices of the samples.
        name
            The annotation that they are.

        Returns
        -------
        array
            Shape (n,), the labels.
        """
        labels = np.empty(samples.size, dtype=np.int64)
        for chunk, positions, offsets in codec.group_samples(samples):
            value = await self._read_chunk(run, name, ref, chunk)
            labels[positions] = codec.decode_integers(value, 1, chunk, run.spec.num_samples)[0, offsets]
        return labels

    async def read_audit(self, run: Run, ref: AnnotationRef) -> Audit:
        """Read an audit."""
        n_samples = run.spec.num_samples
        n_planes = 2 if ref.draw is None else 3
        planes = [
            codec.decode_planes(await self._read_chunk(run, "audit", ref, chunk), n_planes, chunk, n_samples)
            for chunk in range(codec.count_chunks(n_samples))
        ]
        known, clean, *random = np.concatenate(planes, axis=1)
        return Audit(n_samples, known, clean, *random)

    async def _put_values(
        self,
        run: Run,
        name: AnnotationName,
        values: Sequence[bytes],
        draw: DrawChoice | None = None,
        compared: AnnotationRef | None = None,
    ) -> tuple[PutOutcome, str]:
        """Store content, one part per chunk, and set the run's reference; return the outcome and the digest of it."""
        context, old, keys = self._context, run.annotation_ref(name), self._context.keys_of(run)
        content = b"".join(values) + (b"" if draw is None else codec.encode_draw(draw))
        digest = hashlib.sha256(content).hexdigest()[:32]
        chunks = list(zip(keys.list_annotations(), values, strict=True))
        if old is not None and old.digest == digest:
            await restore_values(context, annotation_field(name, old), chunks)
            return "same", digest
        new = AnnotationRef(0 if old is None else old.version + 1, digest, draw)
        old_field = "" if old is None else annotation_field(name, old)
        arguments: list[Argument] = [
            name,
            codec.encode_annotation_ref(old),
            old_field,
            codec.encode_annotation_ref(new),
            int(name == "labels"),
            {"labels": "logged_labels", "logged_labels": "labels", "audit": ""}[name],
            codec.encode_annotation_ref(compared),
        ]
        names = [keys.run, keys.epochs(0), keys.annotations(0), keys.events]
        (outcome,) = await commit_values(
            context, "put_annotation", run, names, arguments, annotation_field(name, new), chunks
        )
        if outcome == "set" and old_field and context.sharded:
            await context.call_all(("HDEL", key, old_field) for key, _ in chunks[1:])
        return cast(PutOutcome, outcome), digest

    async def _read_chunk(self, run: Run, name: AnnotationName, ref: AnnotationRef, chunk: int) -> memoryview:
        """Read the content of one chunk of labels or of an audit."""
        key = self._context.keys_of(run).annotations(chunk)
        (content,) = await read_values(self._context, run, key, [annotation_field(name, ref)])
        return content
