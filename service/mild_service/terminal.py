"""What the commands share: settings are read, and errors told in one line."""

import sys
from typing import Any, NoReturn

from pydantic import ValidationError

from mild_service.command_errors import ConfigurationError
from mild_service.config import Settings


def read_settings(**given: Any) -> Settings:
    """Settings from the environment; what is `given`, and not None, wins.

    Raises
    ------
    ConfigurationError
        If one is none.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"the setting {name} (MILD_{name.upper()}) is {first['input']!r}: {first['msg']}; correct it"
        ) from error


def fail(message: str) -> NoReturn:
    """Print what went wrong and end with 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
