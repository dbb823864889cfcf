"""Whether ``torchrun`` has started this process: told without torch, which takes seconds to load."""

import os


def is_rank() -> bool:
    """Whether this process is one of several that train together (torch's own ``is_torchelastic_launched``)."""
    return "TORCHELASTIC_RUN_ID" in os.environ
