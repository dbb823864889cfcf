"""The API key that a client sends, and where it comes from."""

import os

from mild_core.errors import ParameterError


def authorization(api_key: str | None) -> dict[str, str]:
    """The header that carries `api_key`, or else the key in ``MILD_API_KEY``; empty where there is neither.

    Raises
    ------
    ParameterError
        If the key cannot be sent in a header. The error does not show it.
    """
    key = (api_key or os.environ.get("MILD_API_KEY", "")).strip()
    if not key:
        return {}
    if not all("!" <= character <= "~" for character in key):
        raise ParameterError(
            "the API key holds a character that is not printable ASCII, or a space; give the key as it was made, alone"
        )
    return {"Authorization": f"Bearer {key}"}
