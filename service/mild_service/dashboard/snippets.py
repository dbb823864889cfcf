"""Requests to copy, as curl and as Python: exactly what gives what a page shows."""

from mild_service.api_keys import ANONYMOUS, ApiKey

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


def chosen_cut(base: str, run_id: str, round_: int, caller: ApiKey) -> list[Piece]:
    """How to fetch a round's set, and, for scripts to fill in, the same with another cut in place of ``{value}``."""
    address = f"{base}/selection/{run_id}?round={round_}"
    choice = 'choice={"threshold": "value", "value": {value}}'
    start = _client(base)
    return [
        ("Python", f'{start}    selection = client.selection("{run_id}", round={round_})'),
        ("curl", f"curl {_authorised(caller)}'{address}'"),
        ("Python, cut", f'{start}    selection = client.selection("{run_id}", round={round_}, {choice})'),
        ("curl, cut", f"curl {_authorised(caller)}'{address}&threshold=value&value={{value}}'"),
    ]


def in_form(base: str, run_id: str, round_: int, caller: ApiKey, media_type: str, file: str) -> str:
    """How to fetch a round's set in a form, with curl."""
    return (
        f"curl {_authorised(caller)}-H 'Accept: {media_type}' \\\n"
        f"  -o {file} '{base}/selection/{run_id}?round={round_}'"
    )


def mask(base: str, run_id: str, round_: int, n_samples: int) -> str:
    """How to fetch a round's set as a mask, with Python."""
    return (
        f"from mild_client import MildClient\nfrom mild_core import bitmap\n\n"
        f'with MildClient("{base}") as client:\n'
        f'    kept = bitmap.unpack(client.selected("{run_id}", {n_samples}, round={round_}), {n_samples})'
    )


def _client(base: str) -> str:
    return f'from mild_client import MildClient\n\nwith MildClient("{base}") as client:\n'


def _authorised(caller: ApiKey) -> str:
    return "" if caller is ANONYMOUS else '-H "Authorization: Bearer $MILD_API_KEY" '
