"""What goes wrong at the command line is told in one line."""

import contextlib
from collections.abc import Iterator

import typer

from mild_core.errors import MildError


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Print what went wrong as one line and exit with 2."""
    try:
        yield
    except (MildError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
