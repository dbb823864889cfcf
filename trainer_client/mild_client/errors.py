"""The error tree of the clients.

::

    MildError (mild_core)
    └── ClientError
        ├── LocalStateError        the state of a local run does not allow the call
        ├── SpoolError             the records of a run on disk are in use, full, damaged, or of another version
        │   ├── SpoolInUse         another process writes to them or sends them
        │   └── SpoolFull          the limit is reached, or the disk is full; nothing more is stored
        ├── RunExists              a run of that name has epochs already, and resuming was not allowed
        ├── RunMissing             the run to resume does not exist
        ├── ResumeError            a run cannot be resumed, as earlier epochs are missing
        ├── TooLarge               a body is larger than the service accepts, and cannot be split
        ├── ServiceUnreachable     no answer of the service within the deadline
        │   └── IntermediaryError  a proxy, a portal or another service answered in its place; has status
        └── ServiceError           the service refused a request; has code, status, detail, retryable, request_id
            ├── NotAllowed         401, 403
            ├── NotFound           404
            ├── Conflict           409
            │   └── StaleAttempt   another writer has taken over the run
            ├── Unavailable        a status that is retried, until the deadline passed
            └── BadRequest         any other refusal: the request is invalid
"""

from mild_core.errors import MildError


class ClientError(MildError):
    """Base of every error of the clients."""


class LocalStateError(ClientError):
    """The state of a local run does not allow the call."""


class SpoolError(ClientError):
    """The records of a run on disk cannot be used."""


class SpoolInUse(SpoolError):
    """Another process writes to these records, or sends them."""


class SpoolFull(SpoolError):
    """The spool stores nothing more: its limit is reached, or the disk is full."""


class RunExists(ClientError):
    """A run of that name has epochs or finished rounds already, and resuming was not allowed.

    Attributes
    ----------
    existing_run
        The existing run and its position, in words.
    """

    def __init__(self, existing_run: str) -> None:
        super().__init__(f"{existing_run}; choose another run id, or go on where it is (resume='allow', or --resume)")
        self.existing_run = existing_run


class RunMissing(ClientError):
    """The run to resume does not exist: it was never opened, was deleted, or has expired."""


class TooLarge(ClientError):
    """A body is larger than the service accepts, and cannot be split; nothing was sent."""


class ResumeError(ClientError):
    """A run cannot be resumed at the requested position, as earlier epochs are missing."""


class ServiceUnreachable(ClientError):
    """The service gave no answer within the deadline."""

    code = "unreachable"
    retryable = True


class IntermediaryError(ServiceUnreachable):
    """A proxy, a portal or another service answered in place of the service until the deadline.

    Attributes
    ----------
    status
        HTTP status of the last answer, which says nothing about the request.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ServiceError(ClientError):
    """The service refused a request.

    Attributes
    ----------
    code
        Stable name of the problem, such as ``epoch-conflict``.
    status
        HTTP status.
    detail
        Message of the service: limit, value and remedy.
    retryable
        Whether the same request may succeed later.
    request_id
        Id of the request in the logs of the service; None if the response has none.
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
    """The request is invalid; repeating it fails again."""


class NotAllowed(ServiceError):
    """The API key is missing, wrong, or not permitted to do this."""


class NotFound(ServiceError):
    """The run, round, epoch or route does not exist."""


class Conflict(ServiceError):
    """The state of the run does not allow the request."""


class StaleAttempt(Conflict):
    """Another writer has taken over the run; this trainer should stop."""


class Unavailable(ServiceError):
    """The service was busy or down until the deadline passed."""
