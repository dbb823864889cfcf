"""Records of runs as this process has last read them. They may be out of date: the store has the last word."""

from collections import OrderedDict
from dataclasses import replace

from mild_service.state import Run

_KEPT = 4096


class KnownRuns:
    """The records that were asked for last.

    A record names the run it was read of by its uid, and every script checks that first; so whatever is written by an
    old record is refused if the run was deleted since, and opened again perhaps. Whoever is refused by an old record
    has to forget it, read the present one, and try again: old records never refuse anything.
    """

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._runs: OrderedDict[str, Run] = OrderedDict()

    def get(self, run_id: str) -> Run | None:
        """A record without its tags, perhaps an old one; None where none is kept."""
        run = self._runs.get(run_id)
        if run is not None:
            self._runs.move_to_end(run_id)
        return run

    def keep(self, run: Run) -> None:
        """Keep a record that was just read, in the place of the one that has not been asked for for longest."""
        self._runs[run.run_id] = replace(run, tags={})
        self._runs.move_to_end(run.run_id)
        if len(self._runs) > self._kept:
            self._runs.popitem(last=False)

    def forget(self, run_id: str) -> None:
        """Keep a record no longer."""
        self._runs.pop(run_id, None)
