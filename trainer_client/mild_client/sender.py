"""A thread that sends what a spool holds, in its order, and keeps trying: whoever writes to the spool never waits."""

import logging
import math
import threading
from collections.abc import Callable

from mild_client.client import MildClient
from mild_client.delivery import NOT_NOW, Delivery, send_next
from mild_client.errors import NotAllowed, StaleAttempt
from mild_client.retry import Retry
from mild_client.spool import Spool

logger = logging.getLogger(__name__)

_LONGEST_PAUSE = 10.0


class _Ending(Exception):
    """The sender is to end, and the service does not answer."""


class Sender:
    """Sends a spool's records from a thread of its own, one after the other.

    Memory is bounded by one record, as what waits is on disk. While the service does not answer, the same record is
    tried again, after pauses (`Retry`), without an end.

    Parameters
    ----------
    spool
        What to send; it stays the caller's to close, after the sender.
    connect
        Makes the client that speaks to the service, which retries as it is told.

    Attributes
    ----------
    is_away
        Whether the last try found no service that could answer.
    n_refused
        Records that were set aside.
    stale
        Set once another trainer has taken the run over.
    """

    def __init__(self, spool: Spool, connect: Callable[[Retry], MildClient]) -> None:
        self.is_away = False
        self.n_refused = 0
        self.stale: StaleAttempt | None = None
        self._spool = spool
        self._client = connect(Retry(deadline=math.inf, first_deadline=math.inf, sleep=self._pause))
        self._delivery = Delivery(self._client, spool)
        self._changed = threading.Condition()
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name=f"mild-sender-{spool.run_id}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something new in the spool."""
        with self._changed:
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until all is sent, at most `seconds` and not for a service that is away; return whether all is sent."""
        with self._changed:
            self._changed.wait_for(self._is_at_rest, seconds)
        return not self._spool.n_left

    def close(self, seconds: float) -> None:
        """Send what is left within `seconds`, and end; a service that is away is tried once more."""
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
        self._thread.join(seconds)
        if not self._thread.is_alive():
            self._client.close()

    def _is_at_rest(self) -> bool:
        return not self._spool.n_left or self.is_away or not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self._has_work():
                try:
                    refusal = send_next(self._spool, self._delivery)
                except NotAllowed:
                    raise
                except NOT_NOW:  # an answer that no client repeats at once, such as a full store's
                    self._pause(_LONGEST_PAUSE)
                    continue
                self._note(refusal)
        except _Ending:
            pass
        except Exception as error:  # a thread that dies silently would leave whoever trains in the dark
            logger.warning(
                "run %s: nothing more is sent by this process (%s); what is left stays in %s",
                self._spool.run_id,
                error,
                self._spool.folder,
                exc_info=not isinstance(error, NotAllowed),
            )
        self.is_away = True
        self.wake()

    def _has_work(self) -> bool:
        """Wait for a record; false: all is sent, and the sender is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._spool.n_left or self._is_ending)
            return bool(self._spool.n_left)

    def _note(self, refusal: Exception | None) -> None:
        with self._changed:
            self.is_away = False
            if refusal is not None:
                self.n_refused += 1
            if isinstance(refusal, StaleAttempt):
                self.stale = refusal
            self._changed.notify_all()

    def _pause(self, seconds: float) -> None:
        """Wait before the next try, unless the sender is to end: then the next try is the last one."""
        with self._changed:
            if self._is_ending:
                raise _Ending
            self.is_away = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_ending, seconds)
