"""Errors of the service, independent of HTTP (`web.problems` maps each error to a status).

::

    MildError (mild_core.errors)
    ├── InvalidInput (mild_core.errors): bitmap-length, trailing-bits, sample-index, invalid-parameter, ...
    │   ├── InvalidRequest             a field, path or query value that does not validate
    │   ├── LimitExceeded              a number past one of the service's limits
    │   ├── BadRecord                  a record of a prediction log that cannot be used
    │   └── DigestMismatch             the body does not have the digest in its Content-Digest
    ├── MalformedBody                  a body that cannot be parsed at all
    ├── BodyTooLarge                   more bytes than the limit
    ├── SlowBody                       a body that arrives too slowly
    ├── ClientTooOld                   a version of the project's client that is no longer supported
    ├── UnsupportedMediaType           a content type or encoding that the route does not accept
    ├── NotAcceptable                  no representation that the client accepts
    ├── RunNotFound                    no such run (or it has expired)
    ├── SampleNotFound                 no sample has this external id
    ├── AccessError: the caller has no access
    │   ├── Unauthenticated            no key, or not a valid one
    │   ├── Forbidden                  the key does not permit this
    │   ├── CrossSite                  a page of another site sends a session's cookie
    │   └── RateLimited                too many requests with one key
    ├── PreconditionFailed             the stored content does not meet the request's precondition
    ├── Conflict: the run's state does not allow it
    │   ├── RunConflict                the run was opened with other immutable fields
    │   ├── StaleAttempt               a newer attempt of the run has taken over
    │   ├── RoundNotOpen               the round has not started
    │   ├── RoundFinished              the round is frozen
    │   ├── RoundOpen                  the round is not frozen yet
    │   ├── EpochConflict              the epoch has different content
    │   ├── EpochKindConflict          the epoch is written in another way
    │   ├── MetricsConflict            the epoch has different metrics
    │   ├── MembersFrozen              the round has epochs
    │   ├── PlantedFrozen              round 0 has epochs
    │   ├── LabelsConflict             the labels in logs are others
    │   ├── LabelsFrozen               the run has epochs
    │   ├── SampleIdsFrozen            the run has epochs
    │   ├── NoSampleIds                the run has no external ids
    │   ├── NoAudit                    the run has no audit
    │   ├── DrawAnswered               samples of the audit's draw are marked
    │   ├── RoundsNotComparable        no audit and no validation metric to compare rounds by
    │   ├── NoEpochs                   the round has no epochs to select from
    │   ├── RunLimit                   the key has reached its maximum number of runs
    │   └── EpochGap                   epochs are missing
    ├── Overloaded                     what the request takes of the process is not free; try again
    ├── MemoryExceeded                 the request takes more memory than the service ever grants
    ├── WorkersUnavailable             the workers that compute selections are gone, or unfit; try again
    ├── DeadlineExceeded               the work on a request took too long
    ├── ShuttingDown                   this process is shutting down; others may be available
    ├── StoreError
    │   ├── StoreUnavailable           unreachable or busy; try again
    │   │   ├── CommandForbidden       an ACL user that may not run a command; its problem is store-unavailable
    │   │   └── StoreUnreplicated      too few replicas confirmed a write; try again
    │   ├── StoreFull                  out of memory
    │   ├── StoreNewer                 written by a newer version of the service
    │   └── StoreDamaged               committed data is missing or damaged
    ├── CommandError                   a mild-service command failed
    │   ├── ArchiveDamaged             a file is not a complete archive written by export
    │   ├── RunExists                  a run with the name of the import exists
    │   └── RunChanging                a run was modified during its export
    └── ConfigurationError             settings or a data folder that the service cannot start with

CommandError and ConfigurationError end a command, or the start of the service; they never answer a request.
"""

from typing import ClassVar, Literal, TypeAlias

from mild_core.errors import InvalidInput, MildError

MissingField: TypeAlias = Literal["field", "label"]
"""What a record of a prediction log lacks: the given label next to a prediction, or another field."""


class InvalidRequest(InvalidInput):
    """A field, path or query value does not validate."""

    title = "Request does not validate"


class LimitExceeded(InvalidInput):
    """A number exceeds one of the service's limits."""

    title = "Past a limit of this service"


class BadRecord(InvalidInput):
    """A record of a prediction log cannot be used; the attribute `line` is the number of the record.

    Attributes
    ----------
    missing
        What the record lacks; None if all is there, and something cannot be used.
    remedy
        End of the message.
    """

    title = "Record cannot be used"
    remedy: ClassVar[str] = "; correct it and send the whole log again, nothing of it was stored"
    missing: MissingField | None = None


class DigestMismatch(InvalidInput):
    """The body does not have the digest in its header Content-Digest."""

    title = "Body does not match its digest"


class MalformedBody(MildError):
    """The body cannot be parsed."""

    title = "Body cannot be parsed"


class BodyTooLarge(MildError):
    """The body is longer than the limit."""

    title = "Body is too large"


class SlowBody(MildError):
    """The body arrived too slowly, or stopped arriving."""

    title = "Body came too slowly"
    retryable = True


class ClientTooOld(MildError):
    """The request comes from a version of the project's client that is too old to be supported."""

    title = "Client is too old"


class UnsupportedMediaType(MildError):
    """The route does not accept this content type or content encoding."""

    title = "Content type is not supported"


class NotAcceptable(MildError):
    """The route has no representation that the client accepts."""

    title = "No acceptable representation"


class RunNotFound(MildError):
    """The run does not exist, or has expired."""

    title = "Run not found"


class SampleNotFound(MildError):
    """No sample of the run has this external id."""

    title = "Sample not found"


class AccessError(MildError):
    """The caller has no access."""


class Unauthenticated(AccessError):
    """The request carries no API key, or one that is unknown, revoked or expired."""

    title = "A key is needed"


class Forbidden(AccessError):
    """The key's scope or its prefix of run ids does not permit the request."""

    title = "The key does not allow this"


class CrossSite(AccessError):
    """A page of another site sent the request, with a session cookie or where no key is needed."""

    title = "Request comes from another site"


class RateLimited(AccessError):
    """The key has sent more requests than its rate permits; a new request is accepted after `retry_after` seconds."""

    title = "Too many requests"
    retryable = True

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PreconditionFailed(MildError):
    """The stored content does not meet If-Match or If-None-Match."""

    title = "Precondition failed"


class Overloaded(MildError):
    """What the request takes (memory, a working slot, an event stream) is not free now; try again."""

    title = "Service is busy"
    retryable = True


class WorkersUnavailable(MildError):
    """The processes or machines that compute selections have ended, cannot be reached, or have another version."""

    title = "Workers are unavailable"
    retryable = True


class MemoryExceeded(MildError):
    """The request takes more memory than the service ever grants to one; ask for less at once."""

    title = "Request takes too much memory"


class DeadlineExceeded(MildError):
    """The request took longer than its time limit; a write may have taken effect."""

    title = "Request took too long"
    retryable = True


class ShuttingDown(MildError):
    """The process is shutting down; try another process, or try again later."""

    title = "Service is shutting down"
    retryable = True


class StoreError(MildError):
    """The store failed."""


class StoreUnavailable(StoreError):
    """The store is unreachable or busy."""

    title = "Store is unavailable"
    retryable = True


class CommandForbidden(StoreUnavailable):
    """The store's ACL does not allow the user of the service to run a command."""

    code = StoreUnavailable.code


class StoreUnreplicated(StoreUnavailable):
    """Too few replicas confirmed the write, which may have taken effect but is not acknowledged."""

    title = "Store has too few replicas"


class StoreFull(StoreError):
    """The store is out of memory, or would be with this run."""

    title = "Store is full"


class StoreDamaged(StoreError):
    """Committed data is missing or damaged in the store."""

    title = "Store has lost or damaged what was committed"


class StoreNewer(StoreError):
    """The store was written by a newer version of the service, whose schema this version cannot read."""

    title = "Store is of a later version"


class Conflict(MildError):
    """The run's state does not allow the request."""


class RunConflict(Conflict):
    """The run was opened with a different value of an immutable field."""

    title = "Run exists with other properties"


class StaleAttempt(Conflict):
    """A newer attempt of the run has taken over."""

    title = "A newer attempt has taken over"


class RoundNotOpen(Conflict):
    """The round has not started."""

    title = "Round has not begun"


class RoundFinished(Conflict):
    """The round is frozen."""

    title = "Round is finished"


class RoundOpen(Conflict):
    """The round is not finished yet."""

    title = "Round is open"


class EpochConflict(Conflict):
    """The epoch was committed with different content."""

    title = "Epoch holds other content"


class EpochKindConflict(Conflict):
    """The epoch is written in another way: as a whole body, from logs, or in a given number of shards."""

    code = "epoch-kind"
    title = "Epoch is written in another way"


class MetricsConflict(Conflict):
    """The epoch's metrics were stored with different values."""

    title = "Metrics hold other values"


class MembersFrozen(Conflict):
    """The round has epochs, so its members are fixed."""

    title = "Members are frozen"


class PlantedFrozen(Conflict):
    """Round 0 has epochs, so the samples that were mislabelled on purpose in it are fixed."""

    title = "Planted samples are frozen"


class LabelsConflict(Conflict):
    """The given labels in prediction logs differ from those of the run, or of its other logs."""

    title = "Labels contradict each other"


class LabelsFrozen(Conflict):
    """The run has epochs, so its given labels are fixed."""

    title = "Labels are frozen"


class SampleIdsFrozen(Conflict):
    """The run has epochs, so its external sample ids are fixed."""

    title = "Sample ids are frozen"


class NoSampleIds(Conflict):
    """The run has no external sample ids."""

    title = "Run has no sample ids"


class NoAudit(Conflict):
    """The run has no audit by which a selection could be evaluated."""

    title = "Run has no audit"


class DrawAnswered(Conflict):
    """Samples of the audit's draw are marked, or were, so the draw is fixed."""

    title = "Draw is being answered"


class RoundsNotComparable(Conflict):
    """The run has neither an audit nor validation metrics to compare its rounds by."""

    title = "Rounds cannot be compared"


class NoEpochs(Conflict):
    """The round has no epoch from which a selection could be computed."""

    title = "Round has no epochs"


class RunLimit(Conflict):
    """The key has reached its maximum number of runs; delete one to open another."""

    title = "Too many runs"


class EpochGap(Conflict):
    """Epochs or shards of the round are missing."""

    title = "Epochs are missing"


class CommandError(MildError):
    """A `mild-service` command failed."""


class ArchiveDamaged(CommandError):
    """The file is not a complete archive written by `mild-service export`."""


class RunExists(CommandError):
    """A run with the id of the imported run exists."""


class RunChanging(CommandError):
    """The run was modified during its export."""


class ConfigurationError(MildError):
    """The service cannot start with these settings or this data folder."""
