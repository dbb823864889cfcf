"""The Lua scripts, each next to this file in ``lua/``, and the one way to run them."""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError

from mild_service.store.client import Client
from mild_service.store.writes import Argument, Writes

_ALONE = ("open", "doom", "bury", "renew", "keep", "import", "pin", "prune")
"""Scripts that check for themselves; the others begin with the guard."""

_READING = ("rounds", "parts")
"""Scripts that change nothing: they read several keys of one slot at one instant."""

_UNWATCHED = ("renew", "keep", "prune")
"""Scripts whose writes may get lost with their server: all they do is save work."""

_ALLOWED_WHEN_FULL = ("doom", "bury", "resume", "prune")
"""A full store must still let runs be deleted, and dropped epochs make room."""


def _source(name: str, events_kept: int) -> str:
    folder = files("mild_service.store") / "lua"
    body = (folder / f"{name}.lua").read_text()
    if name in _READING:
        return f"#!lua flags=no-writes\n{body}"
    tell = f"local events_kept = {events_kept}\n{(folder / 'tell.lua').read_text()}"
    guard = "" if name in _ALONE else (folder / "guard.lua").read_text()
    head = "#!lua flags=allow-oom\n" if name in _ALLOWED_WHEN_FULL else ""
    return f"{head}{tell}{guard}{body}"


class Scripts:
    """The scripts; those that write answer in lists of words, the first of which is the outcome."""

    names = (
        "open",
        "import",
        "pin",
        "resume",
        "commit",
        "shard",
        "merge",
        "members",
        "planted",
        "metrics",
        "finish",
        "truth",
        "ids",
        "patch",
        "doom",
        "bury",
        "renew",
        "keep",
        "prune",
        "rounds",
        "parts",
    )

    def __init__(self, redis: Client, writes: Writes, events_kept: int) -> None:
        self._redis = redis
        self._writes = writes
        self._sources = {name: _source(name, events_kept) for name in self.names}
        self._digests = {name: hashlib.sha1(source.encode()).hexdigest() for name, source in self._sources.items()}

    async def run(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> list[str]:
        """Run a script that writes and return its answer."""
        return [bytes(word).decode() for word in await self._evaluate(name, keys, arguments)]

    async def read(self, name: str, keys: Sequence[str], arguments: Sequence[Argument] = ()) -> list[Any]:
        """Run a script that only reads and return what it has found."""
        return list(await self._evaluate(name, keys, arguments))

    async def _evaluate(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        tail = (len(keys), *keys, *arguments)
        try:
            return await self._send(name, keys[0], ("EVALSHA", self._digests[name], *tail))
        except NoScriptError:
            # Sent whole to where the keys are, which keeps it: in a cluster every node has to learn it, and loading it
            # everywhere would fail with any node.
            return await self._send(name, keys[0], ("EVAL", self._sources[name], *tail))

    async def _send(self, name: str, key: str, command: Sequence[Argument]) -> Any:
        if name in _READING or name in _UNWATCHED:
            return await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]
        (answer,) = await self._writes.send((key, command))
        return answer
