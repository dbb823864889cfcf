"""Code to copy, for curl and Python, which fetches what a page shows."""

from mild_service.api_keys import ANONYMOUS, ApiKey

Snippet = tuple[str, str]
"""A name and the code."""


def first_epoch_snippets(base: str, caller: ApiKey) -> list[Snippet]:
    """Return code that opens a run of 8 samples and sends an epoch."""
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


def selection_snippets(base: str, run_id: str, round_: int, caller: ApiKey) -> list[Snippet]:
    """Return code that fetches a round's set, then the same with another cut, whose value replaces ``{value}``."""
    address = f"{base}/selection/{run_id}?round={round_}"
    options = 'choice={"threshold": "value", "value": {value}}'
    client_code = _client_code(base)
    return [
        ("Python", f'{client_code}    selection = client.selection("{run_id}", round={round_})'),
        ("curl", f"curl {_auth_header(caller)}'{address}'"),
        ("Python, cut", f'{client_code}    selection = client.selection("{run_id}", round={round_}, {options})'),
        ("curl, cut", f"curl {_auth_header(caller)}'{address}&threshold=value&value={{value}}'"),
    ]


def download_snippet(base: str, run_id: str, round_: int, caller: ApiKey, media_type: str, file: str) -> str:
    """Return a curl command that fetches a round's set in one media type."""
    return (
        f"curl {_auth_header(caller)}-H 'Accept: {media_type}' \\\n"
        f"  -o {file} '{base}/selection/{run_id}?round={round_}'"
    )


def mask_snippet(base: str, run_id: str, round_: int, n_samples: int) -> str:
    """Return Python code that fetches a round's set as a mask."""
    return (
        f"from mild_client import MildClient\nfrom mild_core import bitmap\n\n"
        f'with MildClient("{base}") as client:\n'
        f'    kept = bitmap.unpack(client.selected("{run_id}", {n_samples}, round={round_}), {n_samples})'
    )


def _client_code(base: str) -> str:
    return f'from mild_client import MildClient\n\nwith MildClient("{base}") as client:\n'


def _auth_header(caller: ApiKey) -> str:
    return "" if caller is ANONYMOUS else '-H "Authorization: Bearer $MILD_API_KEY" '
