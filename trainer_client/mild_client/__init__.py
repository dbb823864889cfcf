"""The client package of a training job: tracker, HTTP clients, selection backends, and selection in the process."""

from typing import TYPE_CHECKING

from mild_client.backend import Position, RoundFit, RoundResult, RunState, SelectionBackend
from mild_client.backends.background import BackgroundBackend
from mild_client.backends.http import HttpBackend
from mild_client.backends.local import LocalSelector
from mild_client.client import AsyncMildClient, MildClient
from mild_client.errors import (
    ClientError,
    IntermediaryError,
    ResumeError,
    RunExists,
    RunMissing,
    ServiceError,
    ServiceUnreachable,
    SpoolError,
    SpoolFull,
    SpoolInUse,
    TooLarge,
)
from mild_client.events import Event
from mild_client.run import AsyncRun, Run
from mild_client.transport import Retry
from mild_core.types import EpochBits, RunSpec, SelectionOptions

if TYPE_CHECKING:
    from mild_client.tracker import CorrectnessTracker

__all__ = [
    "AsyncMildClient",
    "AsyncRun",
    "BackgroundBackend",
    "ClientError",
    "CorrectnessTracker",
    "EpochBits",
    "Event",
    "HttpBackend",
    "IntermediaryError",
    "LocalSelector",
    "MildClient",
    "Position",
    "ResumeError",
    "Retry",
    "RoundFit",
    "RoundResult",
    "Run",
    "RunExists",
    "RunMissing",
    "RunSpec",
    "RunState",
    "SelectionBackend",
    "SelectionOptions",
    "ServiceError",
    "ServiceUnreachable",
    "SpoolError",
    "SpoolFull",
    "SpoolInUse",
    "TooLarge",
]


def __getattr__(name: str) -> object:
    """Import the tracker on first use (PEP 562), as it needs torch and the rest does not."""
    if name == "CorrectnessTracker":
        from mild_client.tracker import CorrectnessTracker

        return CorrectnessTracker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
