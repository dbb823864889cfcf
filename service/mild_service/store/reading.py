"""Rounds read back as they stand."""

from mild_service.state import Round, Run
from mild_service.store import records
from mild_service.store.faults import translated
from mild_service.store.link import Link, run_not_found
from mild_service.store.replies import pairs


async def read_rounds(link: Link, run: Run, numbers: range) -> list[Round]:
    """Rounds, all of one instant.

    Raises
    ------
    RunNotFound
        If the run has gone meanwhile.
    """
    keys = link.keys
    names = [
        name(run.run_id, run.uid, number) for number in numbers for name in (keys.round, keys.epochs, keys.metrics)
    ]
    if not names:
        return []
    with translated():
        found = await link.scripts.read("rounds", names)
    if not all(found[::3]):
        raise run_not_found(run.run_id)
    return [
        records.read_round(number, *(pairs(reply) for reply in found[3 * position : 3 * position + 3]))
        for position, number in enumerate(numbers)
    ]
