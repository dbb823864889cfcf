"""The store, the only part of the service that speaks to Redis; key names in `keys`, the steps in ``lua/``."""

import logging
import time
from collections.abc import Callable

from mild_service.config import Settings
from mild_service.store import servers
from mild_service.store.annotation_store import AnnotationStore
from mild_service.store.bitmaps import BitmapStore, BitmapWriter
from mild_service.store.cluster import Cluster
from mild_service.store.connection import connect
from mild_service.store.context import StoreContext, run_not_found_error, stale_attempt_error, wrong_round_error
from mild_service.store.credentials import CredentialStore, QuotaStore, SessionStore
from mild_service.store.epoch_store import EpochStore
from mild_service.store.error_translation import translated
from mild_service.store.event_store import EventBatch, EventStore
from mild_service.store.keys import Keys
from mild_service.store.maintenance import OrphanCleanup, Part, RunTransfer
from mild_service.store.packed_epoch import PackedEpoch
from mild_service.store.round_store import RoundStore
from mild_service.store.run_store import RunPage, RunStore
from mild_service.store.sample_id_store import PIECE_SAMPLES, SampleIdStore
from mild_service.store.selection_cache import SelectionCache
from mild_service.store.servers import ServerMonitor
from mild_service.store.shard_store import ShardStore
from mild_service.store.wrong_prediction_store import WrongPredictionStore

logger = logging.getLogger(__name__)

__all__ = [
    "PIECE_SAMPLES",
    "EventBatch",
    "PackedEpoch",
    "Part",
    "RunPage",
    "Store",
    "open_store",
    "run_not_found_error",
    "stale_attempt_error",
    "wrong_round_error",
]


class Store:
    """A Redis or Valkey with this service's verbs.

    Attributes
    ----------
    runs
        Runs as a whole.
    moving
        Whole runs, field by field.
    rounds
        The steps of a round.
    epochs
        Epochs put into an open round.
    shards
        Epochs put in shards.
    bits
        Bitmaps.
    votes
        Wrong predictions.
    truth
        Given labels and audits.
    events
        What has happened to runs.
    ids
        External sample ids.
    cache
        Computed selections.
    credentials, sessions, quotas
        API keys, what was begun with them, and how many runs each has created.
    servers
        What the store's servers say of themselves.
    orphans
        What belongs to no run any more.
    """

    def __init__(self, context: StoreContext, cache_seconds: int) -> None:
        self._context = context
        self._redis = context.redis
        self.bitmaps = BitmapStore(context)
        self.runs = RunStore(context)
        writer = BitmapWriter(context, self.bitmaps)
        self.rounds = RoundStore(context, writer)
        self.transfer = RunTransfer(context, self.runs)
        self.wrong_predictions = WrongPredictionStore(context)
        self.epochs = EpochStore(context, self.bitmaps, self.wrong_predictions, writer)
        self.shards = ShardStore(context, self.bitmaps, writer, self.epochs)
        self.annotations = AnnotationStore(context)
        self.events = EventStore(context)
        self.sample_ids = SampleIdStore(context)
        self.selection_cache = SelectionCache(context, cache_seconds)
        self.credentials = CredentialStore(context)
        self.sessions = SessionStore(context)
        self.quotas = QuotaStore(context)
        self.servers = ServerMonitor(context)
        self.cleanup = OrphanCleanup(context, self.runs)

    async def ping(self) -> None:
        """Return when the store has answered.

        Raises
        ------
        StoreUnavailable
            If it does not.
        """
        with translated():
            await self._redis.ping()

    async def migrate(self) -> None:
        """Bring what lies in the store to the version that this service writes.

        Raises
        ------
        StoreNewer
            If a later version has written it.
        StoreUnavailable
            If the store does not answer.
        """
        if (found := await servers.migrate(self._context)) < servers.SCHEMA_VERSION:
            logger.info("the store was brought from schema %d to %d", found, servers.SCHEMA_VERSION)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._redis.aclose()


def open_store(settings: Settings, url: str, clock: Callable[[], float] = time.time) -> Store:
    """The store at `url`; nothing is sent before its first verb."""
    redis = connect(settings, url)
    context = StoreContext(
        redis,
        Keys(settings.store_namespace),
        clock,
        settings.max_events,
        settings.store_sharded or isinstance(redis, Cluster),
        settings.store_replicas,
        settings.store_replica_seconds,
    )
    return Store(context, settings.cache_seconds)
