"""The Lua scripts, each next to this file in ``lua/``, and the one way to run them."""

from collections.abc import Mapping, Sequence
from importlib.resources import files

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

Argument = str | bytes | int

_ALONE = ("open", "doom", "bury", "renew")
"""Scripts that check for themselves; the others begin with the guard."""

_ALLOWED_WHEN_FULL = ("doom", "bury", "resume")
"""A full store must still let runs be deleted, and dropped epochs make room."""


def _source(name: str, events_kept: int) -> str:
    folder = files("mild_service.store") / "lua"
    body = (folder / f"{name}.lua").read_text()
    tell = f"local events_kept = {events_kept}\n{(folder / 'tell.lua').read_text()}"
    guard = "" if name in _ALONE else (folder / "guard.lua").read_text()
    head = "#!lua flags=allow-oom\n" if name in _ALLOWED_WHEN_FULL else ""
    return f"{head}{tell}{guard}{body}"


class Scripts:
    """The scripts, registered with a client; they answer in lists of words, the first of which is the outcome."""

    names = (
        "open",
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
    )

    def __init__(self, redis: Redis, events_kept: int) -> None:
        self._scripts: Mapping[str, AsyncScript] = {
            name: redis.register_script(_source(name, events_kept)) for name in self.names
        }

    async def run(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> list[str]:
        """Run a script and return its answer."""
        answer = await self._scripts[name](keys=keys, args=arguments)
        return [bytes(word).decode() for word in answer]
