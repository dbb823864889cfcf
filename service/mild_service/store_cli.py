"""Commands that go straight to the store: which one it is, and how they end."""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import anyio
import typer

from mild_core.errors import MildError
from mild_service.command_errors import ConfigurationError
from mild_service.config import Settings
from mild_service.store import Store, open_store
from mild_service.store.embedded import attached
from mild_service.terminal import fail, read_settings

T = TypeVar("T")

Embedded = Annotated[bool, typer.Option("--embedded", help="Use the store in the data folder, running or not.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the embedded store (MILD_DATA_DIR, mild-data).")]


def in_store(work: Callable[[Store], Awaitable[T]], embedded: bool, data_dir: Path | None) -> T:
    """Do something with the store that the settings name."""
    settings = read_settings(data_dir=data_dir)
    if embedded or data_dir is not None:
        with attached(settings.data_dir) as url:
            return anyio.run(_opened, settings, url, work)
    if settings.store_url is None:
        raise ConfigurationError(
            "no store is named; set MILD_STORE_URL (such as redis://localhost:6379/0), or say --embedded"
        )
    return anyio.run(_opened, settings, settings.store_url, work)


async def _opened(settings: Settings, url: str, work: Callable[[Store], Awaitable[T]]) -> T:
    store = open_store(settings, url)
    try:
        return await work(store)
    finally:
        await store.aclose()


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End with what went wrong on one line."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(name)s: %(message)s")
    try:
        yield
    except MildError as error:
        fail(str(error))
