"""The error tree of the trainer.

::

    MildError (mild_core)
    └── TrainerError
        ├── DataError         a data set that is absent, corrupt or of the wrong shape
        ├── CheckpointError   nothing to resume, or another run's checkpoint
        ├── ReviewError       a list of samples to check that cannot be written or read
        └── ServiceStartError the embedded service did not come up
"""

from mild_core.errors import MildError


class TrainerError(MildError):
    """Base of every error of the trainer."""


class DataError(TrainerError):
    """A data set that is absent, corrupt or of the wrong shape."""

    code = "data"


class CheckpointError(TrainerError):
    """Nothing to resume from, or the checkpoint of a run with other settings."""

    code = "checkpoint"


class ServiceStartError(TrainerError):
    """The embedded service did not come up."""

    code = "service-start"


class ReviewError(TrainerError):
    """A run that cannot be reviewed, or a list of samples to check that cannot be written or read."""

    code = "review"
