"""The error tree of the trainer.

::

    MildError (mild_core)
    └── TrainerError
        ├── DataError         a data set is absent, damaged or of the wrong shape
        ├── CheckpointError   there is no checkpoint to resume from, or it has other settings or data
        ├── ReviewError       a run cannot be reviewed, or a list of samples cannot be written or read
        └── ServiceStartError the embedded service did not start
"""

from mild_core.errors import MildError


class TrainerError(MildError):
    """Base of every error of the trainer."""


class DataError(TrainerError):
    """A data set is absent, damaged or of the wrong shape."""


class CheckpointError(TrainerError):
    """There is no checkpoint to resume from, or it has other settings or data."""


class ServiceStartError(TrainerError):
    """The embedded service did not start."""


class ReviewError(TrainerError):
    """A run cannot be reviewed, or a list of samples to check cannot be written or read."""
