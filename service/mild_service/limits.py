"""Range checks of numbers against the service's limits."""

from mild_service.config import Settings
from mild_service.errors import LimitExceeded


def check_position(settings: Settings, round_: int, epoch: int = 0) -> None:
    """Check that the number of a round, and of an epoch within the round, are within the limits of the settings."""
    check_range("round", round_, 0, settings.max_rounds - 1, "MILD_MAX_ROUNDS")
    check_range("epoch", epoch, 0, settings.max_epochs - 1, "MILD_MAX_EPOCHS")


def check_range(name: str, value: int, low: int, high: int, setting: str) -> None:
    """Check that ``low <= value <= high``.

    Parameters
    ----------
    name, value
        Name for the error message, and the number to check.
    low, high
        Inclusive limits.
    setting
        Environment variable that raises the limit, for the error message.
    """
    if not low <= value <= high:
        raise LimitExceeded(
            f"{name} is {value}, this service takes {low}..{high}; send a number in that range, "
            f"or have {setting} raised"
        )
