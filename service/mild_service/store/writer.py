"""A field and the record that names it, written in this order: all of it counts, or nothing."""

from collections.abc import Sequence

from mild_service.state import Run
from mild_service.store.bits import Bits
from mild_service.store.faults import translated
from mild_service.store.link import Link
from mild_service.store.reading import read_rounds
from mild_service.store.writes import Argument


class Writer:
    """Writes bitmaps of any size with one script's leave."""

    def __init__(self, link: Link, bits: Bits) -> None:
        self._link = link
        self._bits = bits

    async def write(
        self,
        script: str,
        names: Sequence[str],
        arguments: Sequence[Argument],
        run: Run,
        round_: int,
        field: str,
        values: Sequence[bytes],
    ) -> list[str]:
        """Run a script that writes a field, and return its answer.

        On one server all chunks go with it. Where chunks >= 1 may lie on other servers, they go first, and the script
        is asked before whether it would take them: a refused write must not leave them behind.
        """
        with translated():
            if not self._link.sharded:
                tail = [self._link.keys.chunk(run.run_id, run.uid, round_, chunk) for chunk in range(1, len(values))]
                return await self._link.scripts.run(script, [*names, *tail], [*arguments, field, *values])
            if len(values) > 1:
                answer = await self._link.scripts.run(script, names, arguments)
                if answer[0] != "clear":
                    return answer
                await self._bits.write_tail(run, round_, field, values)
            answer = await self._link.scripts.run(script, names, [*arguments, field, values[0]])
        if len(values) > 1 and answer[0] == "gone":
            await self._bits.unlink_tail(run, round_)
        if len(values) > 1 and answer[0] == "finished":  # and cleaned up, perhaps before these were written
            await self._bits.collect_garbage(run, *await read_rounds(self._link, run, range(round_, round_ + 1)))
        return answer

    def names(self, run: Run, round_: int) -> list[str]:
        """Keys of what an epoch's or a set's script looks at: run, round, epochs, chunk 0, shards, events."""
        keys = self._link.keys
        return [
            keys.run(run.run_id),
            keys.round(run.run_id, run.uid, round_),
            keys.epochs(run.run_id, run.uid, round_),
            keys.chunk(run.run_id, run.uid, round_, 0),
            keys.shards(run.run_id, run.uid, round_),
            keys.events(run.run_id, run.uid),
        ]
