"""Writing epochs in shards, of which each rank writes one."""

from mild_core import bitmap
from mild_core.errors import BitmapLengthError
from mild_core.types import EpochBits
from mild_service.concurrency import offload
from mild_service.config import Settings
from mild_service.errors import InvalidRequest, StaleAttempt, StoreUnavailable
from mild_service.models import Epoch, Run, ShardOutcome
from mild_service.observability import Telemetry
from mild_service.store import PackedEpoch, Store

_ATTEMPTS = 50


class ShardWriter:
    """Writes epochs in shards."""

    def __init__(self, store: Store, settings: Settings, telemetry: Telemetry) -> None:
        self._store = store
        self._settings = settings
        self._telemetry = telemetry

    async def put(
        self,
        run: Run,
        round_: int,
        number: int,
        shard: int,
        n_shards: int,
        body: bytes,
        attempt: int | None,
        replaces: bool,
    ) -> tuple[ShardOutcome, Epoch, PackedEpoch]:
        """Store one shard of an epoch, and commit the epoch once all its shards are stored.

        If this is interrupted before the commit, the epoch is committed when any of its shards is sent again, or when
        the round is finished.

        Parameters
        ----------
        run, round_, number
            The run, its open round, and the number of the epoch.
        shard, n_shards
            Number of the shard, from 0, and the total number of shards.
        body
            Two bitmaps over all samples: observed, then correct, with bits for the samples of this shard only.
        attempt
            The writer's attempt; None accepts the current one.
        replaces
            Whether a stored epoch or shard with different content is replaced.

        Returns
        -------
        tuple
            The outcome, ``same`` if the shard was stored already with the same content; the current record of the
            epoch; and the bits of the shard.
        """
        self._settings.check_position(round_, number)
        self._settings.check_limit("of", n_shards, "max_shards")
        if shard >= n_shards:
            raise InvalidRequest(
                f"shard is {shard}, an epoch of {n_shards} shards has 0..{n_shards - 1}; number them from 0 on"
            )
        n_samples = run.spec.num_samples
        packed = await offload(len(body), lambda: _parse_body(body, n_samples))
        first_outcome: ShardOutcome | None = None
        for _ in range(_ATTEMPTS):
            try:
                outcome, epoch = await self._store.shards.put(
                    run, round_, number, shard, n_shards, packed, run.attempt if attempt is None else attempt, replaces
                )
                first_outcome = first_outcome or outcome  # a repeated put below returns "same"
                if epoch.partial and not epoch.is_missing_shards:
                    merged = await self._store.shards.merge(run, round_, epoch, attempt)
                    if merged is None:
                        continue  # changed by another writer
                    self._telemetry.epochs.labels("committed").inc()
                    epoch = merged
            except StaleAttempt:
                if attempt is not None:
                    raise
                run = await self._store.runs.refresh(run)
                continue
            self._telemetry.shards.labels(first_outcome).inc()
            self._telemetry.epoch_bytes.inc(len(body))
            return first_outcome, epoch, packed
        raise StoreUnavailable(
            f"epoch {number} of round {round_} was changed by others {_ATTEMPTS} times while its shards were merged; "
            "send the same shard again in a second"
        )


def _parse_body(body: bytes, n_samples: int) -> PackedEpoch:
    """Check and pack the body of a shard."""
    bits = EpochBits.from_body(body, n_samples)
    if bits.observed is None:
        size = bitmap.n_bytes(n_samples)
        raise BitmapLengthError(
            f"a shard of {n_samples} samples takes {2 * size} bytes (observed, then correct), got {len(body)}; "
            "send both bitmaps over the whole data set, with the bits of this rank's samples set"
        )
    return PackedEpoch.from_bits(bits, "shards")
