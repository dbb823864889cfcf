"""Given labels and audits of a run, stored as one field each in chunk hashes."""

import hashlib
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core.audit import Audit
from mild_core.draw import DrawChoice
from mild_service.models import AnnotationName, AnnotationRef, Run
from mild_service.store import codec
from mild_service.store.context import Argument, StoreContext, refusal_error
from mild_service.store.keys import annotation_field
from mild_service.store.values import commit_values, read_values, restore_values

PutOutcome: TypeAlias = Literal["set", "same", "moved", "frozen"]
"""Outcome of storing labels or an audit; only ``set`` changes data.

``same`` means that the content is stored already, ``moved`` that other content was stored in the meantime, and
``frozen`` that the run has epochs, so that labels can no longer change."""

_WIDTHS = (np.dtype("<u1"), np.dtype("<u2"), np.dtype("<u4"))


class AnnotationStore:
    """Reads and writes labels and audits.

    A write replaces the content to which the given record of the run refers, and no other content.
    """

    def __init__(self, context: StoreContext) -> None:
        self._context = context

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
        dtype = next(width for width in _WIDTHS if labels.max() <= np.iinfo(width).max)
        packed = labels.astype(dtype)
        starts = range(0, packed.size, codec.CHUNK_SAMPLES)
        return await self._put_values(
            run, name, [packed[start : start + codec.CHUNK_SAMPLES].tobytes() for start in starts], compared=compared
        )

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
        planes = [audit.known, audit.clean] if draw is None else [audit.known, audit.clean, audit.drawn]
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
        chunks = samples // codec.CHUNK_SAMPLES
        for chunk in np.unique(chunks).tolist():
            value = await self._read_chunk(run, name, ref, chunk)
            positions = slice(*np.searchsorted(chunks, (chunk, chunk + 1)))
            offsets = samples[positions] - chunk * codec.CHUNK_SAMPLES
            labels[positions] = codec.decode_labels(value, chunk, run.spec.num_samples)[offsets]
        return labels

    async def read_audit(self, run: Run, ref: AnnotationRef) -> Audit:
        """Read an audit."""
        n_samples = run.spec.num_samples
        values = [await self._read_chunk(run, "audit", ref, chunk) for chunk in range(codec.count_chunks(n_samples))]
        n_planes = 2 if ref.draw is None else 3
        planes = [codec.decode_planes(value, n_planes, chunk, n_samples) for chunk, value in enumerate(values)]
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
        chunks = [keys.annotations(chunk) for chunk in range(len(values))]
        if old is not None and old.digest == digest:
            await restore_values(context, annotation_field(name, old), zip(chunks, values, strict=True))
            return "same", digest
        new = AnnotationRef(0 if old is None else old.version + 1, digest, draw)
        old_field = "" if old is None else annotation_field(name, old)
        arguments: list[Argument] = [
            run.uid,
            await context.now(),
            name,
            codec.encode_annotation_ref(old),
            old_field,
            codec.encode_annotation_ref(new),
            int(name == "labels"),
            {"labels": "logged_labels", "logged_labels": "labels", "audit": ""}[name],
            codec.encode_annotation_ref(compared),
        ]
        names = [keys.run, keys.epochs(0), chunks[0], keys.events]
        answer = await commit_values(
            context, "put_annotation", names, arguments, chunks, annotation_field(name, new), values
        )
        if answer[0] == "set" and old_field and context.sharded:
            await context.call_all(("HDEL", key, old_field) for key in chunks[1:])
        match answer[0]:
            case "set" | "moved" | "frozen":
                return answer[0], digest
        raise refusal_error(answer, run.run_id, run.round, None)

    async def _read_chunk(self, run: Run, name: AnnotationName, ref: AnnotationRef, chunk: int) -> memoryview:
        """Read the content of one chunk of labels or of an audit."""
        key = self._context.keys_of(run).annotations(chunk)
        (content,) = await read_values(self._context, run, key, [annotation_field(name, ref)])
        return content
