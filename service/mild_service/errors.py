"""The service's error tree; nothing here knows of HTTP (`web.problems` maps each error to a status).

::

    MildError (mild_core.errors)
    ├── InvalidInput (mild_core.errors): bitmap-length, trailing-bits, sample-index, invalid-parameter, ...
    │   ├── InvalidRequest             a field, path or query value that does not validate
    │   ├── LimitExceeded              a number past one of the service's limits
    │   ├── BadRecord                  a record of a prediction log that cannot be used
    │   └── DigestMismatch             the body is not what its Content-Digest says
    ├── MalformedBody                  a body that cannot be parsed at all
    ├── BodyTooLarge                   more bytes than the limit
    ├── SlowBody                       a body that comes too slowly
    ├── ClientTooOld                   one of our clients that the service does not support any more
    ├── UnsupportedMediaType           a content type or coding that the route does not read
    ├── NotAcceptable                  no representation that the caller accepts
    ├── RunNotFound                    no such run (or it has expired)
    ├── SampleNotFound                 no sample has this external id
    ├── AccessError: who asks does not get in
    │   ├── Unauthenticated            no key, or none that counts
    │   ├── Forbidden                  the key does not reach this far
    │   ├── CrossSite                  another site's page asks with a session's cookie
    │   └── RateLimited                too many requests with one key
    ├── PreconditionFailed             what is stored is not what the request's condition demands
    ├── Conflict: the run's state does not allow it
    │   ├── RunConflict                opened before with another immutable field
    │   ├── StaleAttempt               a newer attempt of the run has taken over
    │   ├── RoundNotOpen               the round has not begun
    │   ├── RoundFinished              the round is frozen
    │   ├── EpochConflict              the epoch holds other content
    │   ├── EpochKind                  the epoch is written in another way
    │   ├── MetricsConflict            the epoch's metrics hold other values
    │   ├── MembersFrozen              the round has epochs
    │   ├── PlantedFrozen              round 0 has epochs
    │   ├── LabelsFrozen               the run has epochs
    │   ├── SampleIdsFrozen            the run has epochs
    │   ├── NoSampleIds                no external ids to answer with
    │   ├── NoAudit                    nothing to measure by
    │   ├── RoundsNotComparable        nothing to tell the best round by
    │   ├── NoEpochs                   nothing to select from
    │   ├── RunLimit                   the key has as many runs as it may
    │   └── EpochGap                   epochs are missing
    ├── Overloaded                     as much is being done as the service takes on; try again
    ├── DeadlineExceeded               the work on a request took too long
    ├── ShuttingDown                   this process is about to end; others may go on
    ├── StoreError
    │   ├── StoreUnavailable           not reachable, or busy; try again
    │   │   └── StoreUnreplicated      too few replicas have a write; try again
    │   ├── StoreFull                  no room left
    │   ├── StoreNewer                 written by a later version of the service
    │   └── StoreDamaged               committed bits are missing
    ├── CommandError                  a command of mild-service cannot do what it was told
    │   ├── ArchiveDamaged             a file is not, or not any more, what export writes
    │   ├── RunIsThere                 a run of the name that is to be imported
    │   └── RunChanging                a run is written to while it is exported
    └── ConfigurationError            settings or a data folder that the service cannot start with

CommandError and ConfigurationError end a command, or the start of the service; they never answer a request.
"""

from mild_core.errors import InvalidInput, MildError


class InvalidRequest(InvalidInput):
    """A field, path or query value does not validate."""

    code = "invalid-request"
    title = "Request does not validate"


class LimitExceeded(InvalidInput):
    """A number lies past one of the service's limits."""

    code = "limit-exceeded"
    title = "Past a limit of this service"


class BadRecord(InvalidInput):
    """A record of a prediction log cannot be used; the problem's `line` says which."""

    code = "bad-record"
    title = "Record cannot be used"


class DigestMismatch(InvalidInput):
    """The body is not what its Content-Digest says."""

    code = "digest-mismatch"
    title = "Body does not match its digest"


class MalformedBody(MildError):
    """The body cannot be parsed."""

    code = "malformed-body"
    title = "Body cannot be parsed"


class BodyTooLarge(MildError):
    """The body is longer than the limit."""

    code = "body-too-large"
    title = "Body is too large"


class SlowBody(MildError):
    """The body came too slowly, or stopped."""

    code = "slow-body"
    title = "Body came too slowly"
    retryable = True


class ClientTooOld(MildError):
    """One of the project's own clients is older than the service supports."""

    code = "client-too-old"
    title = "Client is too old"


class UnsupportedMediaType(MildError):
    """The route does not read this content type or coding."""

    code = "unsupported-media-type"
    title = "Content type is not supported"


class NotAcceptable(MildError):
    """No representation that the caller accepts."""

    code = "not-acceptable"
    title = "No acceptable representation"


class RunNotFound(MildError):
    """No such run, or it has expired."""

    code = "run-not-found"
    title = "Run not found"


class SampleNotFound(MildError):
    """No sample of the run has this external id."""

    code = "sample-not-found"
    title = "Sample not found"


class AccessError(MildError):
    """Who asks does not get in."""

    code = "access"
    title = "No access"


class Unauthenticated(AccessError):
    """The request carries no API key, or one that is unknown, revoked or expired."""

    code = "unauthenticated"
    title = "A key is needed"


class Forbidden(AccessError):
    """The key's scope, or its prefix of run ids, does not reach this far."""

    code = "forbidden"
    title = "The key does not allow this"


class CrossSite(AccessError):
    """A page of another site asks, with the cookie of a login or where no key is needed."""

    code = "cross-site"
    title = "Request comes from another site"


class RateLimited(AccessError):
    """The key has sent more requests than its rate allows; `Retry-After` says when the next one is let through."""

    code = "rate-limited"
    title = "Too many requests"
    retryable = True

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PreconditionFailed(MildError):
    """What is stored is not what If-Match or If-None-Match demands."""

    code = "precondition-failed"
    title = "Precondition failed"


class Overloaded(MildError):
    """The service is doing as much of this as it takes on; try again."""

    code = "overloaded"
    title = "Service is busy"
    retryable = True


class DeadlineExceeded(MildError):
    """The service worked on the request for longer than it may; a write may have taken effect."""

    code = "deadline-exceeded"
    title = "Request took too long"
    retryable = True


class ShuttingDown(MildError):
    """The process is about to end; send to another one, or wait for the next."""

    code = "shutting-down"
    title = "Service is shutting down"
    retryable = True


class StoreError(MildError):
    """The store could not do its part."""

    code = "store-error"
    title = "Store error"


class StoreUnavailable(StoreError):
    """The store is not reachable, or busy."""

    code = "store-unavailable"
    title = "Store is unavailable"
    retryable = True


class StoreUnreplicated(StoreUnavailable):
    """Too few replicas of the store have the write, which may have taken effect; it is not acknowledged."""

    code = "store-unreplicated"
    title = "Store has too few replicas"


class StoreFull(StoreError):
    """The store has no room left, or would have none for this run."""

    code = "store-full"
    title = "Store is full"


class StoreDamaged(StoreError):
    """Committed bits are missing from the store."""

    code = "store-damaged"
    title = "Store has lost committed bits"


class StoreNewer(StoreError):
    """What is in the store was written by a later version of the service, which this replica does not understand."""

    code = "store-newer"
    title = "Store is of a later version"


class Conflict(MildError):
    """The run's state does not allow the request."""

    code = "conflict"
    title = "Conflict with the run's state"


class RunConflict(Conflict):
    """The run was opened with another value of an immutable field."""

    code = "run-conflict"
    title = "Run exists with other properties"


class StaleAttempt(Conflict):
    """A newer attempt of the run has taken over."""

    code = "stale-attempt"
    title = "A newer attempt has taken over"


class RoundNotOpen(Conflict):
    """The round has not begun."""

    code = "round-not-open"
    title = "Round has not begun"


class RoundFinished(Conflict):
    """The round is frozen."""

    code = "round-finished"
    title = "Round is finished"


class EpochConflict(Conflict):
    """The epoch was committed with other content."""

    code = "epoch-conflict"
    title = "Epoch holds other content"


class EpochKindConflict(Conflict):
    """The epoch is written in another way: its first writer sent a whole body, a log, or so many shards."""

    code = "epoch-kind"
    title = "Epoch is written in another way"


class MetricsConflict(Conflict):
    """The epoch's metrics were stored with other values."""

    code = "metrics-conflict"
    title = "Metrics hold other values"


class MembersFrozen(Conflict):
    """The round has epochs, so its members are fixed."""

    code = "members-frozen"
    title = "Members are frozen"


class PlantedFrozen(Conflict):
    """Round 0 has epochs, so the samples that were mislabelled on purpose in it are fixed."""

    code = "planted-frozen"
    title = "Planted samples are frozen"


class LabelsFrozen(Conflict):
    """The run has epochs, so its given labels are fixed."""

    code = "labels-frozen"
    title = "Labels are frozen"


class SampleIdsFrozen(Conflict):
    """The run has epochs, so its external sample ids are fixed."""

    code = "sample-ids-frozen"
    title = "Sample ids are frozen"


class NoSampleIds(Conflict):
    """The run has no external sample ids."""

    code = "no-sample-ids"
    title = "Run has no sample ids"


class NoAudit(Conflict):
    """The run has no audit to measure by."""

    code = "no-audit"
    title = "Run has no audit"


class RoundsNotComparable(Conflict):
    """The run has nothing to tell its best round by: neither an audit nor validation metrics."""

    code = "rounds-not-comparable"
    title = "Rounds cannot be compared"


class NoEpochs(Conflict):
    """The round has no epoch to select from."""

    code = "no-epochs"
    title = "Round has no epochs"


class RunLimit(Conflict):
    """The key has as many runs as it may; deleting one makes room."""

    code = "run-limit"
    title = "Too many runs"


class EpochGap(Conflict):
    """Epochs are missing in the round."""

    code = "epoch-gap"
    title = "Epochs are missing"


class CommandError(MildError):
    """A command of `mild-service` cannot do what it was told."""


class ArchiveDamaged(CommandError):
    """A file is not, or not any more, what `mild-service export` writes."""

    code = "archive-damaged"
    title = "File cannot be used"


class RunExists(CommandError):
    """A run of the name that is to be imported is there."""

    code = "run-is-there"
    title = "Run is there"


class RunChanging(CommandError):
    """A run is being written to while it is exported."""

    code = "run-changing"
    title = "Run is being written to"


class ConfigurationError(MildError):
    """The service cannot start with these settings or this data folder."""

    code = "configuration"
    title = "Configuration error"
