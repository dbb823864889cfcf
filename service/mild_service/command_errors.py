"""What ends a command, or the start of the service: never an answer to a request. A branch of the tree in `errors`."""

from mild_core.errors import MildError


class CommandError(MildError):
    """A command of `mild-service` cannot do what it was told."""


class ArchiveDamaged(CommandError):
    """A file is not, or not any more, what `mild-service export` writes."""

    code = "archive-damaged"
    title = "File cannot be used"


class RunIsThere(CommandError):
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
