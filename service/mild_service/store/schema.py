"""The version of what lies in the store, and the steps from each version to the next.

A step goes forward only, may be interrupted and begun again, and leaves records that the version before can read: old
and new replicas run side by side while they are replaced. A store without a version is of version 0.
"""

from collections.abc import Awaitable, Callable

from mild_service.errors import StoreNewer
from mild_service.store import records
from mild_service.store.faults import translated
from mild_service.store.link import Link
from mild_service.store.replies import blob

SCHEMA = 1


async def prepare(link: Link) -> int:
    """Bring the store to `SCHEMA`; return the version that it had. What every replica does at its start.

    Raises
    ------
    StoreNewer
        If it was written by a later version of the service.
    """
    with translated():
        found = await link.redis.get(link.keys.schema)
        version = 0 if found is None else int(found)
        if version > SCHEMA:
            raise StoreNewer(
                f"the store has schema {version}, this service knows those up to {SCHEMA}; upgrade this service"
            )
        for step in _STEPS[version:]:
            await step(link)
        if version < SCHEMA:
            await link.writes.send((link.keys.schema, ("SET", link.keys.schema, SCHEMA)))
    return version


async def _pin_options(link: Link) -> None:
    """0 to 1: spell out each run's options, so that no later default changes what a run was opened with."""
    async for entry, _ in link.redis.zscan_iter(link.keys.runs):
        key = link.keys.run(blob(entry).decode().partition(":")[2])
        held = await link.redis.hget(key, "config")
        if held is None:
            continue
        pinned = records.write_config(records.read_config(blob(held)))
        if pinned != blob(held):
            await link.scripts.run("pin", [key], [blob(held), pinned])


_STEPS: tuple[Callable[[Link], Awaitable[None]], ...] = (_pin_options,)
"""From version 0 on, one each."""
