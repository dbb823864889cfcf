"""What the state of a run does not allow: a branch of the tree that `errors` draws."""

from mild_core.errors import MildError


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


class EpochKind(Conflict):
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
