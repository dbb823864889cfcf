"""Which runs each API key has created, so that they can be counted."""

from typing import Literal, cast

from mild_service.store.faults import translated
from mild_service.store.link import Link
from mild_service.store.replies import words

_FRESH_MS = 60_000
"""A run that was entered this recently may still be on its way into the store."""
_BATCH = 500


class Quotas:
    """Verbs on places. A run that is deleted or expires leaves its place; that is noticed once all are taken."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def take(self, key_id: str, run_id: str, limit: int) -> Literal["taken", "held", "full"]:
        """Enter a run that is about to be created among the `limit` of a key.

        The place is taken before it is counted, so that requests at the same time never get past the limit.
        """
        redis, places = self._link.redis, self._link.keys.quota(key_id)
        with translated():
            if not await redis.zadd(places, {run_id: self._link.now()}, nx=True):
                return "held"
            if await redis.zcard(places) > limit:
                await self._forget_gone(places)
                if await redis.zcard(places) > limit:
                    await redis.zrem(places, run_id)
                    return "full"
        return "taken"

    async def leave(self, key_id: str, run_id: str) -> None:
        """Give a place back."""
        with translated():
            await self._link.redis.zrem(self._link.keys.quota(key_id), run_id)

    async def _forget_gone(self, places: str) -> None:
        redis, now = self._link.redis, self._link.now()
        found = await redis.zrangebyscore(places, "-inf", now - _FRESH_MS)
        held = words(cast("list[bytes]", found))  # without scores, which the client's type allows for
        for start in range(0, len(held), _BATCH):
            names = held[start : start + _BATCH]
            pipeline = redis.pipeline(transaction=False)
            for name in names:
                pipeline.hmget(self._link.keys.run(name), "deleting", "expires")
            records = zip(names, await pipeline.execute(), strict=True)
            gone = [name for name, (deleting, expires) in records if deleting or expires is None or int(expires) <= now]
            if gone:
                await redis.zrem(places, *gone)
