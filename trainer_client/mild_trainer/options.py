"""Command-line options of ``mild``; the options of settings are generated from the fields of dataclasses.

Each option has an environment variable, whose name is ``MILD_`` and the name of the option.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
import typer.core

from mild_client.backends.background import Mode
from mild_client.commands import format_command
from mild_client.errors import ServiceError
from mild_client.logs import SamplesBy
from mild_core.errors import MildError, describe_os_error
from mild_core.fields import resolve_field_types
from mild_core.types import SelectionOptions
from mild_trainer import presets
from mild_trainer.settings import DATA, DEFAULTS, TrainSettings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_RUN = "Run"
_GROUPS: Mapping[type, str] = {TrainSettings: "Training", SelectionOptions: "Selection"}
"""Groups of options in the help, of the fields of a class that name none."""


_REMEDIES = {
    "run-not-found": "`mild runs` lists the runs of a service, `mild push --create` opens one",
    "epoch-gap": "`mild finish --allow-gaps` finishes without them",
}
"""What helps on the command line with a problem that a service answers, by its code."""


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """Print an error that the block raises as one line, and exit with status 2."""
    try:
        yield
    except (MildError, ModuleNotFoundError, OSError) as error:
        typer.echo(f"error: {_describe_error(error)}", err=True)
        raise typer.Exit(2) from error


def _describe_error(error: Exception) -> str:
    """Return the message of an error with what helps on the command line."""
    if isinstance(error, ModuleNotFoundError):
        return f"this needs {error.name}, which is not installed; pip install 'mild-selection[trainer]'"
    if isinstance(error, OSError):
        return describe_os_error(error)
    remedy = _REMEDIES.get(error.code) if isinstance(error, ServiceError) else None
    return f"{error}; {remedy}" if remedy else str(error)


class CommandGroup(typer.core.TyperGroup):
    """Commands that print an error as one line."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with exit_on_error():
            return super().invoke(ctx)


@dataclass(frozen=True, slots=True)
class FieldOptions:
    """Group of options generated from the fields of a dataclass, for `expand_options`.

    Attributes
    ----------
    cls
        The dataclass, whose fields made by `declare_field` become options.
    only, without
        Names of the fields to use, and to leave out. None for `only` uses all fields.
    defaults
        Defaults that the help of this command shows, by field name. Other options show the default of the field.
    """

    cls: "type[DataclassInstance]"
    only: Collection[str] | None = None
    without: Collection[str] = ()
    defaults: Mapping[str, Any] | None = None

    def make_parameters(self) -> list[inspect.Parameter]:
        """Return a keyword parameter for each option, whose value is None if the option is not given."""
        return [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[resolve_field_types(self.cls)[field.name] | None, self._make_option(field)],
            )
            for field in fields(self.cls)
            if field.metadata and field.name not in self.without and (self.only is None or field.name in self.only)
        ]

    def _make_option(self, field: Field[Any]) -> Any:
        """Make the typer option of a field."""
        name = field.name.replace("_", "-")
        is_switch = resolve_field_types(self.cls)[field.name] is bool
        return typer.Option(
            f"--{name}/--no-{name}" if is_switch else f"--{name}",
            envvar=f"MILD_{field.name.upper()}",
            help=field.metadata["text"],
            rich_help_panel=field.metadata.get("group", _GROUPS[self.cls]),
            show_default=self._format_default(field),
        )

    def _format_default(self, field: Field[Any]) -> str | bool:
        """Return the default that the help shows; False shows none."""
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
    """Return a decorator that adds groups of options to a typer command.

    The command has a parameter with the name of each group. It receives a dict of the options of the group that the
    user has given.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        declared = inspect.signature(command, eval_str=True).parameters.values()
        expanded = {name: group.make_parameters() for name, group in groups.items()}
        keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in declared]
        parameters = [option for parameter in keyword_only for option in expanded.get(parameter.name, [parameter])]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            for name, options in expanded.items():
                group_values = {option.name: values.pop(option.name) for option in options}
                values[name] = {option: value for option, value in group_values.items() if value is not None}
            command(**values)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _make_option(variable: str, text: str, default: bool | str = True, **options: Any) -> typer.models.OptionInfo:
    """Make an option whose flag and environment variable, ``MILD_<variable>``, have the same name."""
    flag = f"--{variable.lower().replace('_', '-')}"
    option: typer.models.OptionInfo = typer.Option(
        flag, envvar=f"MILD_{variable}", help=text, show_default=default, **options
    )
    return option


def _apply_preset(context: typer.Context, name: str | None) -> str | None:
    """Use the settings of a preset as defaults, which options and environment variables override."""
    if name is not None:
        context.default_map = {**(context.default_map or {}), **presets.find_preset(name).option_values}
    return name


Preset: TypeAlias = Annotated[
    str | None,
    _make_option(
        "PRESET",
        "Take the settings of a name from `mild presets` where nothing else is given.",
        default=False,
        rich_help_panel=DATA,
        is_eager=True,
        callback=_apply_preset,
    ),
]
_make_run_option = functools.partial(_make_option, rich_help_panel=_RUN)
Url: TypeAlias = Annotated[
    str | None, _make_run_option("URL", "Address of a running service; without it an embedded one is started.")
]
SyncUrl: TypeAlias = Annotated[
    str | None, _make_option("URL", "The service; without it, for each run the one it was recorded for.")
]
ServiceUrl: TypeAlias = Annotated[str, _make_option("URL", "Address of the service.")]
SamplesByOption: TypeAlias = Annotated[
    SamplesBy | None,
    typer.Option(help="Whether the log names samples by ids or by indices, where both may be meant."),
]
ColumnsOption: TypeAlias = Annotated[
    str,
    typer.Option(
        help="Columns of a log that have other names, FIELD=COLUMN: sample=id,label=target. Fields are `epoch`, "
        "`sample`, `correct`, or `predicted` and `label`, and `round`.",
        show_default=False,
    ),
]
ModeOption: TypeAlias = Annotated[
    Mode,
    _make_run_option(
        "MODE", "online; offline: record for `mild sync`, without a service; disabled: the same as --local."
    ),
]
SpoolBytes: TypeAlias = Annotated[
    int | None, _make_run_option("SPOOL_BYTES", "Most bytes to keep for a service that is away.", default="10 GiB")
]
ApiKey: TypeAlias = Annotated[
    str | None,
    _make_run_option(
        "API_KEY",
        "Key for the service at --url; in the variable other users of this machine do not see it.",
        default=False,
    ),
]
Local: TypeAlias = Annotated[bool, _make_run_option("LOCAL", "Select in this process, with no service.")]
RunId: TypeAlias = Annotated[
    str | None, _make_run_option("RUN_ID", "The run's name at the service; drawn from the time without it.")
]


def _make_out_option(default: str) -> typer.models.OptionInfo:
    """Make the option of the folder of a training, by default `default`, or the next free one."""
    text = "Folder for the set, the report and checkpoints, one for each training."
    return _make_run_option("OUT", text, default=f"{default}, or the next of {default}-2, …")


Out: TypeAlias = Annotated[Path | None, _make_out_option("runs/train")]
DemoOut: TypeAlias = Annotated[Path | None, _make_out_option("runs/demo")]
Resume: TypeAlias = Annotated[bool, _make_run_option("RESUME", "Go on from the checkpoint in the out folder.")]


FIRST_PAGE = ("dataset", "data_dir", "labels", "noise", "model", "epochs", "rounds", "local", "out", "resume")
"""Options of ``mild train --help``; ``--help-all`` shows all of them."""


class ShortHelpCommand(typer.core.TyperCommand):
    """Command whose ``--help`` shows the options of `FIRST_PAGE`, and ``--help-all`` all options."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, without the other options unless all are asked for."""
        for option in self.params:
            if isinstance(option, typer.core.TyperOption):
                is_first = option.name in (*FIRST_PAGE, "help_all", "help")
                option.hidden = not (is_first or ctx.meta.get(_ALL_OPTIONS))
        super().format_help(ctx, formatter)


_ALL_OPTIONS = "mild_trainer.all_options"


def _show_all_options(context: typer.Context, is_requested: bool) -> None:
    """Print the help with all options and exit, if `is_requested`."""
    if is_requested:
        context.meta[_ALL_OPTIONS] = True
        typer.echo(context.get_help())
        raise typer.Exit


HelpAll: TypeAlias = Annotated[
    bool,
    typer.Option("--help-all", help="Show all options and exit.", is_eager=True, callback=_show_all_options),
]


@contextlib.contextmanager
def explain_interruption(context: typer.Context, out: Path) -> Iterator[None]:
    """On Ctrl-C in the block, print how the training in the folder `out` is resumed, and exit with status 130."""
    try:
        yield
    except KeyboardInterrupt:
        if (out / "checkpoint.pt").exists():
            arguments = _list_given_arguments(context, without=("out", "resume", "api_key"))
            command = format_command("mild", context.info_name or "train", *arguments, "--out", out, "--resume")
            typer.echo(f"\nInterrupted. To go on from the last checkpoint:\n    {command}", err=True)
        else:
            typer.echo("\nInterrupted before the first checkpoint; nothing is lost by starting anew.", err=True)
        raise typer.Exit(130) from None


def _list_given_arguments(context: typer.Context, without: Collection[str]) -> list[str]:
    """Return the options and values of the command line, except for those `without`."""
    arguments = []
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if source is None or source.name != "COMMANDLINE" or option.name in without:
            continue
        value = context.params[option.name or ""]
        if isinstance(value, bool):
            arguments.append(option.opts[0] if value else option.secondary_opts[0])
        else:
            arguments += [option.opts[0], str(value)]
    return arguments
