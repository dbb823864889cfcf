"""The error tree of the clients.

::

    MildError (mild_core)
    └── ClientError
        ├── LocalStateError        a call that the state of a local run does not allow
        ├── SpoolError             a spool on disk that cannot be used: in use, full, damaged, or of another version
        │   ├── SpoolInUse         another process writes to it or sends from it
        │   └── SpoolFull          nothing more is kept: the limit is reached, or the disk is full
        ├── RunExists              a run of that name has epochs, and was not to be resumed
        ├── RunMissing             a run that was to be resumed is not there
        ├── ResumeError            a run cannot go on where its trainer stopped: epochs before are missing
        ├── TooLarge               a body that the service would refuse for its size, and that cannot be cut
        ├── ServiceUnreachable     no answer within the deadline
        └── ServiceError           an answer that refuses; carries code, status, detail, retryable, request_id
            ├── NotAllowed         401, 403
            ├── NotFound           404
            ├── Conflict           409
            │   └── StaleAttempt   a newer attempt of the same run has taken over
            ├── Unavailable        408, 429, 5xx: still refusing when the deadline passed
            └── BadRequest         any other refusal: what was sent cannot be used
"""

from mild_core.errors import MildError


class ClientError(MildError):
    """Base of every error of the clients."""


class LocalStateError(ClientError):
    """A call that the state of a local run does not allow."""

    code = "local-state"


class SpoolError(ClientError):
    """A spool on disk cannot be used."""

    code = "spool"


class SpoolInUse(SpoolError):
    """Another process writes to this spool, or sends from it."""

    code = "spool-in-use"


class SpoolFull(SpoolError):
    """Nothing more is kept in this spool: its limit is reached, or the disk takes no more."""

    code = "spool-full"


class RunExists(ClientError):
    """A run of that name has epochs or finished rounds already, and was not to be resumed.

    Attributes
    ----------
    found
        What stands in the way: the run and how far it is.
    """

    code = "run-exists"

    def __init__(self, found: str) -> None:
        super().__init__(f"{found}; choose another run id, or go on where it is (resume)")
        self.found = found


class RunMissing(ClientError):
    """A run that was to be resumed is not there: never opened, deleted, or expired."""

    code = "run-missing"


class TooLarge(ClientError):
    """A body that the service would refuse for its size, and that cannot be cut; nothing was sent."""

    code = "too-large"


class ResumeError(ClientError):
    """A run cannot go on where its trainer stopped, as epochs before that are missing."""

    code = "resume"


class ServiceUnreachable(ClientError):
    """The service gave no answer within the deadline."""

    code = "unreachable"
    retryable = True


class ServiceError(ClientError):
    """The service answered, and refused.

    Attributes
    ----------
    code
        Stable name of the problem, such as ``epoch-conflict``.
    status
        HTTP status.
    detail
        Limit, value got and remedy, in the service's words.
    retryable
        Whether the same request may succeed later.
    request_id
        What to quote to whoever runs the service; None where it gave none.
    """

    def __init__(self, code: str, status: int, detail: str, retryable: bool, request_id: str | None) -> None:
        quoted = f", request {request_id}" if request_id else ""
        super().__init__(f"{detail} ({code}, status {status}{quoted})")
        self.code = code
        self.status = status
        self.detail = detail
        self.retryable = retryable
        self.request_id = request_id


class BadRequest(ServiceError):
    """What was sent cannot be used; sending it again will fail again."""


class NotAllowed(ServiceError):
    """No key, a wrong key, or one that does not reach this far."""


class NotFound(ServiceError):
    """No such run, round, epoch or route."""


class Conflict(ServiceError):
    """The run's state does not allow it."""


class StaleAttempt(Conflict):
    """A newer attempt of the same run has taken over; this trainer should end."""


class Unavailable(ServiceError):
    """The service was busy or down, and still was when the deadline passed."""
