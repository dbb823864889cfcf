"""Styles, scripts and fonts: under an address that names their content, so that browsers may keep them for good."""

import hashlib
from functools import cache
from pathlib import Path

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).parent / "static"
PATH = "/ui/static"
_YEAR = "public, max-age=31536000, immutable"


@cache
def version() -> str:
    """Names the content of all assets together; modules then find each other by relative paths."""
    digest = hashlib.sha256()
    for path in sorted(FOLDER.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            digest.update(f"{path.relative_to(FOLDER).as_posix()}:{len(content)}:".encode() + content)
    return digest.hexdigest()[:12]


class Assets(StaticFiles):
    """Serves them. Under another version's address, as while replicas change, they are served but not kept."""

    def __init__(self) -> None:
        super().__init__(directory=FOLDER)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file at ``<version>/<name>``."""
        named, _, name = path.replace("\\", "/").partition("/")
        response = await super().get_response(name, scope)
        response.headers["Cache-Control"] = _YEAR if named == version() else "no-cache"
        return response
