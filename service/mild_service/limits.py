"""Numbers that name a place in a run, held to the service's limits."""

from mild_service.config import Settings
from mild_service.errors import LimitExceeded


def check_position(settings: Settings, round_: int, epoch: int = 0) -> None:
    """Return when a round and an epoch of it may exist.

    Raises
    ------
    LimitExceeded
        If one of them is past its limit.
    """
    check_range("round", round_, 0, settings.max_rounds - 1, "MILD_MAX_ROUNDS")
    check_range("epoch", epoch, 0, settings.max_epochs - 1, "MILD_MAX_EPOCHS")


def check_range(name: str, value: int, low: int, high: int, setting: str) -> None:
    """Return when ``low <= value <= high``; `setting` is what raises the limit.

    Raises
    ------
    LimitExceeded
        If it is not.
    """
    if not low <= value <= high:
        raise LimitExceeded(
            f"{name} is {value}, this service takes {low}..{high}; send a number in that range, "
            f"or have {setting} raised"
        )
