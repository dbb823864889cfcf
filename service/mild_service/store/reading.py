"""Rounds read back as they stand."""

from mild_service.state import Round, Run
from mild_service.store import records
from mild_service.store.faults import translated
from mild_service.store.link import Link, run_not_found
from mild_service.store.replies import table


async def read_rounds(link: Link, run: Run, numbers: range) -> list[Round]:
    """Rounds, all of one instant.

    Raises
    ------
    RunNotFound
        If the run has gone meanwhile.
    """
    keys = link.keys
    with translated():
        pipeline = link.redis.pipeline(transaction=True)
        for number in numbers:
            pipeline.hgetall(keys.round(run.run_id, run.uid, number))
            pipeline.hgetall(keys.epochs(run.run_id, run.uid, number))
            pipeline.hgetall(keys.metrics(run.run_id, run.uid, number))
        found = await pipeline.execute()
    if not all(found[::3]):
        raise run_not_found(run.run_id)
    return [
        records.read_round(number, *(table(reply) for reply in found[3 * position : 3 * position + 3]))
        for position, number in enumerate(numbers)
    ]
