"""Requests to copy, as curl and as Python: exactly what gives what a page shows."""

from mild_service.identity import ANONYMOUS, ApiKey

Piece = tuple[str, str]
"""A name and the code."""


def first_epoch(base: str, caller: ApiKey) -> list[Piece]:
    """How to open a run of 8 samples and send an epoch of it."""
    run = f"{caller.prefix}my-run"
    auth = "" if caller is ANONYMOUS else ' -H "Authorization: Bearer $MILD_API_KEY"'
    curl = (
        f"curl -X PUT {base}/runs/{run}{auth} \\\n"
        "  -H 'Content-Type: application/json' -d '{\"num_samples\": 8}'\n"
        f"printf '\\245' | curl -X PUT {base}/runs/{run}/rounds/0/epochs/0{auth} \\\n"
        "  -H 'Content-Type: application/octet-stream' --data-binary @-"
    )
    python = (
        "import numpy as np\n"
        "from mild_client import MildClient\n\n"
        f'with MildClient("{base}") as client, client.run("{run}", num_samples=8) as run:\n'
        "    correct = np.array([1, 0, 1, 0, 0, 1, 0, 1], dtype=bool)  # did the model predict the given label?\n"
        "    run.put_epoch(correct)"
    )
    return [("Python", python), ("curl", curl)]
