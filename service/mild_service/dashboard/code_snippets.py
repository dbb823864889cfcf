"""Code snippets for curl and Python on the pages, such as those that fetch the set that a page shows."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from mild_service.api_keys import ANONYMOUS, ApiKey

Snippet = tuple[str, str]
"""The title of a snippet, and its code."""


def make_first_epoch_snippets(base_url: str, caller: ApiKey) -> list[Snippet]:
    """Return snippets that open a run of 8 samples and send an epoch."""
    run = f"{caller.prefix}my-run"
    auth = _make_auth_option(caller)
    curl = (
        f"curl {auth}-X PUT {base_url}/runs/{run} \\\n"
        "  -H 'Content-Type: application/json' -d '{\"num_samples\": 8}'\n"
        f"printf '\\245' | curl {auth}-X PUT {base_url}/runs/{run}/rounds/0/epochs/0 \\\n"
        "  -H 'Content-Type: application/octet-stream' --data-binary @-"
    )
    python = (
        "import numpy as np\n"
        "from mild_client import MildClient\n\n"
        f'with MildClient("{base_url}") as client, client.run("{run}", num_samples=8) as run:\n'
        "    correct = np.array([1, 0, 1, 0, 0, 1, 0, 1], dtype=bool)  # did the model predict the given label?\n"
        "    run.put_epoch(correct)"
    )
    return [("Python", python), ("curl", curl)]


def make_selection_snippets(base_url: str, run_id: str, round_: int, caller: ApiKey) -> list[Snippet]:
    """Return snippets that fetch a round's set, also with another cut, whose value the page inserts at ``{value}``."""
    address = f"{base_url}/selection/{run_id}?round={round_}"
    options = 'changes={"threshold": "value", "value": {value}}'
    client_code = f'from mild_client import MildClient\n\nwith MildClient("{base_url}") as client:\n'
    return [
        ("Python", f'{client_code}    selection = client.selection("{run_id}", round={round_})'),
        ("curl", f"curl {_make_auth_option(caller)}'{address}'"),
        ("Python, cut", f'{client_code}    selection = client.selection("{run_id}", round={round_}, {options})'),
        ("curl, cut", f"curl {_make_auth_option(caller)}'{address}&threshold=value&value={{value}}'"),
    ]


def make_choice_snippet(base_url: str, run_id: str, round_: int, caller: ApiKey, options: Mapping[str, Any]) -> str:
    """Return a curl command that fetches the set of a round with other options than the run's."""
    query = urlencode({"round": round_, **options})
    return f"curl {_make_auth_option(caller)}'{base_url}/selection/{run_id}?{query}'"


def make_download_snippet(base_url: str, run_id: str, round_: int, caller: ApiKey, media_type: str, file: str) -> str:
    """Return a curl command that saves a round's set in one media type as `file`."""
    return (
        f"curl {_make_auth_option(caller)}-H 'Accept: {media_type}' \\\n"
        f"  -o {file} '{base_url}/selection/{run_id}?round={round_}'"
    )


def make_mask_snippet(base_url: str, run_id: str, round_: int, n_samples: int) -> str:
    """Return Python code that fetches a round's set as a boolean mask."""
    return (
        f"from mild_client import MildClient\nfrom mild_core import bitmap\n\n"
        f'with MildClient("{base_url}") as client:\n'
        f'    kept = bitmap.unpack(client.selected("{run_id}", {n_samples}, round={round_}), {n_samples})'
    )


def _make_auth_option(caller: ApiKey) -> str:
    """Return the option of curl that sends the API key; empty if the service requires no key."""
    return "" if caller is ANONYMOUS else '-H "Authorization: Bearer $MILD_API_KEY" '
