"""The store, the only part of the service that speaks to Redis; key names in `keys`, the steps in ``lua/``."""

import logging
import time
from collections.abc import Callable

from mild_service.config import Settings
from mild_service.store import servers
from mild_service.store.annotation_store import Truth
from mild_service.store.bitmaps import Bits, Writer
from mild_service.store.cluster import Cluster
from mild_service.store.connection import connect
from mild_service.store.context import Link, run_not_found, stale_attempt, wrong_round
from mild_service.store.credentials import Credentials, Quotas, Sessions
from mild_service.store.epoch_store import Epochs
from mild_service.store.error_translation import translated
from mild_service.store.event_store import Events, Look
from mild_service.store.keys import Keys
from mild_service.store.maintenance import Moving, OrphanKeys, Part
from mild_service.store.packed_epoch import PackedEpoch
from mild_service.store.round_store import Rounds
from mild_service.store.run_store import Lifecycle, Page
from mild_service.store.sample_id_store import PIECE_SAMPLES, Ids
from mild_service.store.selection_cache import Cache
from mild_service.store.servers import Servers
from mild_service.store.shard_store import Shards
from mild_service.store.wrong_prediction_store import VoteFields

logger = logging.getLogger(__name__)

__all__ = [
    "PIECE_SAMPLES",
    "Look",
    "PackedEpoch",
    "Page",
    "Part",
    "Store",
    "open_store",
    "run_not_found",
    "stale_attempt",
    "wrong_round",
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

    def __init__(self, link: Link, cache_seconds: int) -> None:
        self._link = link
        self._redis = link.redis
        self.bits = Bits(link)
        self.runs = Lifecycle(link)
        writer = Writer(link, self.bits)
        self.rounds = Rounds(link, writer)
        self.moving = Moving(link, self.runs)
        self.votes = VoteFields(link)
        self.epochs = Epochs(link, self.bits, self.votes, writer)
        self.shards = Shards(link, self.bits, writer, self.epochs)
        self.truth = Truth(link)
        self.events = Events(link)
        self.ids = Ids(link)
        self.cache = Cache(link, cache_seconds)
        self.credentials = Credentials(link)
        self.sessions = Sessions(link)
        self.quotas = Quotas(link)
        self.servers = Servers(link)
        self.orphans = OrphanKeys(link, self.runs)

    async def ping(self) -> None:
        """Return when the store has answered.

        Raises
        ------
        StoreUnavailable
            If it does not.
        """
        with translated():
            await self._redis.ping()

    async def prepare(self) -> None:
        """Bring what lies in the store to the version that this service writes.

        Raises
        ------
        StoreNewer
            If a later version has written it.
        StoreUnavailable
            If the store does not answer.
        """
        if (found := await servers.prepare(self._link)) < servers.SCHEMA:
            logger.info("the store was brought from schema %d to %d", found, servers.SCHEMA)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._redis.aclose()


def open_store(settings: Settings, url: str, clock: Callable[[], float] = time.time) -> Store:
    """The store at `url`; nothing is sent before its first verb."""
    redis = connect(settings, url)
    link = Link(
        redis,
        Keys(settings.store_namespace),
        clock,
        settings.max_events,
        settings.store_sharded or isinstance(redis, Cluster),
        settings.store_replicas,
        settings.store_replica_seconds,
    )
    return Store(link, settings.cache_seconds)
