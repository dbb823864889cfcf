"""The store of runs in Redis or Valkey; the only package that sends commands to it."""

from collections.abc import Callable, Sequence

from mild_core.audit import Annotations
from mild_core.bitmap import Bitmap
from mild_service.config import Settings
from mild_service.models import AnnotationRef, Run
from mild_service.store import servers
from mild_service.store.annotation_store import AnnotationStore
from mild_service.store.bitmaps import BitmapStore
from mild_service.store.codec import PIECE_SAMPLES
from mild_service.store.context import (
    StoreContext,
    stale_attempt_error,
    translate_errors,
    wrong_round_error,
)
from mild_service.store.credentials import CredentialStore, QuotaStore, SessionStore
from mild_service.store.epoch_store import EpochStore, PackedEpoch, describe_kind
from mild_service.store.event_store import EventBatch, EventStore
from mild_service.store.keys import annotation_field
from mild_service.store.maintenance import OrphanCleanup, RunField, RunTransfer
from mild_service.store.round_store import RoundStore
from mild_service.store.run_store import RunPage, RunStore
from mild_service.store.sample_id_store import SampleIdStore
from mild_service.store.selection_cache import SelectionCache
from mild_service.store.servers import ServerMonitor
from mild_service.store.shard_store import ShardStore
from mild_service.store.stored_samples import StoredRound, StoredSamples
from mild_service.store.verification import ValueVerifier
from mild_service.store.wrong_prediction_store import WrongPredictionStore

__all__ = [
    "PIECE_SAMPLES",
    "EventBatch",
    "PackedEpoch",
    "RunField",
    "RunPage",
    "Store",
    "StoredRound",
    "StoredSamples",
    "describe_kind",
    "stale_attempt_error",
    "wrong_round_error",
]


class Store:
    """All parts of the store over one connection to Redis or Valkey. Nothing is sent before the first call of a method.

    Parameters
    ----------
    settings
        Provides the namespace of the keys, the limits and the timeouts.
    url
        URL of a Redis or Valkey server, or of a cluster.
    clock
        Function that returns Unix time in seconds, for tests; None takes the clock of the store's server.

    Attributes
    ----------
    runs
        Records of runs: create, read, list, change, delete.
    transfer
        Export and import of whole runs.
    rounds
        Rounds: read, set members, store metrics, finish.
    epochs
        Epochs committed to an open round.
    shards
        Epochs written in shards.
    bitmaps
        Bitmaps of epochs and sets of samples.
    wrong_predictions
        Wrong predictions of epochs from logs.
    annotations
        Given labels and audits.
    events
        Event streams of runs.
    sample_ids
        External sample ids.
    selection_cache
        Computed selections.
    credentials, sessions, quotas
        API keys, sessions created with them, and the runs that each key has created.
    servers
        Memory, settings and clocks of the Redis servers.
    cleanup
        Search for data that belongs to no run, and its removal.
    verifier
        Search for values that are damaged or missing.
    """

    def __init__(self, settings: Settings, url: str, clock: Callable[[], float] | None = None) -> None:
        self._context = context = StoreContext(settings, url, clock)
        self.bitmaps = BitmapStore(context)
        self.runs = RunStore(context)
        self.rounds = RoundStore(context)
        self.transfer = RunTransfer(context, self.runs)
        self.wrong_predictions = WrongPredictionStore(context)
        self.epochs = EpochStore(context, self.bitmaps, self.wrong_predictions)
        self.shards = ShardStore(context, self.bitmaps, self.epochs)
        self.annotations = AnnotationStore(context)
        self.events = EventStore(context)
        self.sample_ids = SampleIdStore(context)
        self.selection_cache = SelectionCache(context, settings.cache_seconds)
        self.credentials = CredentialStore(context)
        self.sessions = SessionStore(context)
        self.quotas = QuotaStore(context)
        self.servers = ServerMonitor(context)
        self.cleanup = OrphanCleanup(context, self.runs)
        self.verifier = ValueVerifier(context, self.runs)

    def open_samples(
        self,
        run: Run,
        rounds: Sequence[StoredRound],
        labels: AnnotationRef | None,
        members: Bitmap | None,
        annotations: Annotations,
    ) -> StoredSamples:
        """Return the samples of a run as a source that any thread or process can read.

        Parameters
        ----------
        run
            The run.
        rounds
            The rounds, oldest first.
        labels
            Reference to the given labels; None if they are not used.
        members
            Shape (n_bytes,), members of the last round; None for all samples.
        annotations
            The other annotations that are used.
        """
        return StoredSamples(
            url=self._context.url,
            timeout=self._context.timeout,
            keys=self._context.keys_of(run),
            n_samples=run.spec.num_samples,
            observe=run.spec.observe,
            rounds=rounds,
            labels_field=None if labels is None else annotation_field("labels", labels),
            members=members,
            annotations=annotations,
        )

    async def ping(self) -> None:
        """Check that the store answers and takes writes. A full store does: it still deletes."""
        with translate_errors():
            await self._context.redis.ping()
            # No such key exists for longer than one command: a write without effect, which a read-only store refuses.
            await self._context.redis.delete(self._context.keys.same_slot(self._context.keys.schema))

    async def check_schema(self) -> None:
        """Check that the store has the schema version that this service reads and writes."""
        await servers.check_schema(self._context)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._context.redis.aclose()
