"""The Python interpreter, set for a process that serves: by default it is set for programs that run and end."""

import gc
import sys

_YOUNG = 10_000
"""Objects that are made, and not freed, between two looks for cycles. Python's own 700 are made by a few requests,
which leave next to no cycles behind; no cycle was seen to hold a body."""
_SWITCH_SECONDS = 0.0005
"""How long a thread that computes keeps the event loop from going on; Python's own is ten times as long.

The loop lets go of the interpreter at every call to the system, several times a request, and while sets are computed
each time it has to wait for its turn again."""


def settle() -> None:
    """Set it; to be called when all is loaded, before serving.

    Modules, routes and schemas are some hundred thousand objects which stay for good. Going through them for cycles
    held up every request that came meanwhile, and all such looking took a sixth of the time of an epoch's PUT.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 20)
    sys.setswitchinterval(_SWITCH_SECONDS)
