"""Command-line options: those of settings are made of the dataclass that declares them.

Each option has an environment variable, ``MILD_`` and its name.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from mild_client.backends.background import Mode
from mild_core.errors import MildError
from mild_core.fields import field_types
from mild_trainer import presets
from mild_trainer.settings import DATA, DEFAULTS, TrainSettings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_SELECTION, _RUN = "Selection", "Run"


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Print what went wrong as one line and exit with 2."""
    try:
        yield
    except (MildError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


@dataclass(frozen=True, slots=True)
class FieldOptions:
    """Options made of the fields of a dataclass, for `expand_options`.

    Attributes
    ----------
    cls
        The dataclass; its described fields become options.
    only, without
        Names of the fields to take, or to leave out.
    defaults
        Defaults of this command, by field name, for the help; other options show the field's own.
    """

    cls: "type[DataclassInstance]"
    only: Collection[str] | None = None
    without: Collection[str] = ()
    defaults: Mapping[str, Any] | None = None

    def parameters(self) -> list[inspect.Parameter]:
        """Return a keyword parameter for each option; its default None means that the option is absent."""
        return [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[field_types(self.cls)[field.name] | None, self._option(field)],
            )
            for field in fields(self.cls)
            if field.metadata and field.name not in self.without and (self.only is None or field.name in self.only)
        ]

    def _option(self, field: Field[Any]) -> Any:
        name = field.name.replace("_", "-")
        is_switch = field_types(self.cls)[field.name] is bool
        return typer.Option(
            f"--{name}/--no-{name}" if is_switch else f"--{name}",
            envvar=f"MILD_{field.name.upper()}",
            help=field.metadata["text"],
            rich_help_panel=field.metadata.get("group", _SELECTION),
            show_default=self._shown_default(field),
        )

    def _shown_default(self, field: Field[Any]) -> str | bool:
        if self.defaults and field.name in self.defaults:
            return str(self.defaults[field.name])
        if self.cls is TrainSettings and any(field.name in defaults for defaults in DEFAULTS.values()):
            return "by data set"
        if field.default is None:
            return False
        if isinstance(field.default, bool):
            return "on" if field.default else "off"
        return str(field.default)


def expand_options(**groups: FieldOptions) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take the options of dataclasses, each group in one parameter of that name.

    The parameter is a dict of the options on the command line, without those that are not there.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        expanded = {name: group.parameters() for name, group in groups.items()}
        named = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
        parameters = [each for one in named for each in expanded.get(one.name, [one])]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            for name, options in expanded.items():
                group_values = {option.name: values.pop(option.name) for option in options}
                values[name] = {option: value for option, value in group_values.items() if value is not None}
            command(**values)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def _option(
    variable: str, text: str, panel: str, flag: str | None = None, default: bool | str = True
) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        flag or f"--{variable.lower().replace('_', '-')}",
        envvar=f"MILD_{variable}",
        help=text,
        rich_help_panel=panel,
        show_default=default,
    )
    return option


def _take_preset(context: typer.Context, name: str | None) -> str | None:
    """Use a preset's settings as defaults; options and environment variables win."""
    if name is not None:
        with one_line_errors():
            context.default_map = {**(context.default_map or {}), **presets.find_preset(name).flat}
    return name


Preset: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--preset",
        envvar="MILD_PRESET",
        help="Take the settings of a name from `mild presets` where nothing else is given.",
        show_default=False,
        rich_help_panel=DATA,
        is_eager=True,
        callback=_take_preset,
    ),
]
Url: TypeAlias = Annotated[
    str | None, _option("URL", "Address of a running service; without it an embedded one is started.", _RUN)
]
SyncUrl: TypeAlias = Annotated[
    str | None,
    typer.Option("--url", envvar="MILD_URL", help="The service; without it, for each run the one it was recorded for."),
]
ModeOption: TypeAlias = Annotated[
    Mode,
    _option("MODE", "online; offline: record for `mild sync`, without a service; disabled: the same as --local.", _RUN),
]
SpoolBytes: TypeAlias = Annotated[
    int | None, _option("SPOOL_BYTES", "Most bytes to keep for a service that is away.", _RUN, default="10 GiB")
]
ApiKey: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="MILD_API_KEY",
        help="Key for the service at --url; in the variable other users of this machine do not see it.",
        show_default=False,
        rich_help_panel=_RUN,
    ),
]
Local: TypeAlias = Annotated[
    bool,
    typer.Option("--local", envvar="MILD_LOCAL", help="Select in this process, with no service.", rich_help_panel=_RUN),
]
RunId: TypeAlias = Annotated[
    str | None, _option("RUN_ID", "The run's name at the service; drawn from the time without it.", _RUN)
]
Out: TypeAlias = Annotated[Path, _option("OUT", "Folder for the summary, the report and checkpoints.", _RUN)]
Resume: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--resume", envvar="MILD_RESUME", help="Go on from the checkpoint in the out folder.", rich_help_panel=_RUN
    ),
]
