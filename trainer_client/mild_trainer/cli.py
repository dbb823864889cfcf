"""The command ``mild`` and its subcommands."""

import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.table import Table

from mild_client import MildClient
from mild_client.backends import sync as spools
from mild_client.commands import format_command
from mild_core.fields import check_fields
from mild_core.log_columns import parse_class_names, parse_columns
from mild_core.statements import describe_quality, describe_selection, format_at_most
from mild_core.types import SelectionOptions
from mild_trainer import options as o
from mild_trainer import presets
from mild_trainer.clean_set import CleanSet, check_set_path, fetch_clean_set
from mild_trainer.data import guess_dataset
from mild_trainer.errors import DataError
from mild_trainer.job import BackendOptions, Job, choose_out_folder
from mild_trainer.review import review_list
from mild_trainer.settings import MODEL_FORMS, TrainSettings

if TYPE_CHECKING:
    from mild_trainer.review.review_runs import ReviewedRun

app = typer.Typer(
    cls=o.CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(is_requested: bool) -> None:
    """Print the version and exit, if `is_requested`."""
    if is_requested:
        typer.echo(metadata.version("mild-selection"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Find the samples whose labels are likely right, and train on them."""


@app.command(
    cls=o.ShortHelpCommand, epilog="These are the first options of some seventy: --help-all shows the others, by group."
)
@o.expand_options(
    settings=o.FieldOptions(TrainSettings), selection=o.FieldOptions(SelectionOptions, without=("alpha",))
)
def train(
    *,
    context: typer.Context,
    preset: o.Preset = None,
    settings: dict[str, Any],
    selection: dict[str, Any],
    url: o.Url = None,
    api_key: o.ApiKey = None,
    local: o.Local = False,
    mode: o.ModeOption = "online",
    spool_bytes: o.SpoolBytes = None,
    run_id: o.RunId = None,
    out: o.Out = None,
    resume: o.Resume = False,
    help_all: o.HelpAll = False,
) -> None:
    """Train over rounds on labels that are partly wrong; what is not given has the data set's own default."""
    settings.setdefault("dataset", guess_dataset(settings.get("data_dir")))
    resolved = TrainSettings.for_dataset(**settings, selection=SelectionOptions(**selection))
    if mode == "disabled":
        backend_options = BackendOptions(mode=mode)
    else:
        backend_options = BackendOptions(url, "disabled" if local else mode, api_key, spool_bytes)
    folder = choose_out_folder(out, Path("runs/train"), resume)
    with o.explain_interruption(context, folder):
        Job(resolved, folder, backend_options, run_id, resume, frozenset(settings)).run()


@app.command()
@o.expand_options(
    settings=o.FieldOptions(
        TrainSettings,
        only=("dataset", "classes", "limit", "seed", "device", "threads"),
        defaults={"dataset": "what lies in IMAGES"},
    )
)
def features(
    images: Annotated[
        Path, typer.Argument(help="A folder of pictures, <class>/<picture>, that of a data set, or an .npz of images.")
    ],
    *,
    model: Annotated[
        str,
        typer.Option(help=f"The network: {MODEL_FORMS}. Nothing is downloaded."),
    ],
    out: Annotated[Path, typer.Option(help="The file to write, an .npz.")] = Path("features.npz"),
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Height and width that images are brought to.",
            show_default="what the model says, or 224",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            help="What is taken off the values 0..1 of red, green and blue.",
            show_default="what the model says, or ImageNet's: 0.485,0.456,0.406",
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            help="What they are divided by then.",
            show_default="what the model says, or ImageNet's: 0.229,0.224,0.225",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 32,
    settings: dict[str, Any],
) -> None:
    """Turn images into features by a network of yours, for `mild train --data-dir features.npz`."""
    from mild_trainer import feature_extraction

    settings.setdefault("dataset", guess_dataset(images))
    resolved = TrainSettings(data_dir=images, image_size=image_size or 0, **settings)
    check_fields(resolved)
    channels = feature_extraction.parse_channels("--mean", mean), feature_extraction.parse_channels("--std", std, 0)
    feature_extraction.extract_features(resolved, model, out, Console(markup=False), batch_size, *channels)


@app.command(name="presets")
def list_presets() -> None:
    """Print the presets of `mild train`: their names, and the settings that each stands for."""
    typer.echo(presets.format_table())


_DEMO = {"dataset": "digits", "noise": "symmetric:0.4", "oracle": True}


@app.command()
@o.expand_options(
    settings=o.FieldOptions(TrainSettings, only=("noise", "epochs", "rounds", "seed"), defaults=_DEMO),
)
def demo(
    *,
    context: typer.Context,
    settings: dict[str, Any],
    url: o.Url = None,
    api_key: o.ApiKey = None,
    local: o.Local = False,
    run_id: o.RunId = None,
    out: o.DemoOut = None,
    resume: o.Resume = False,
) -> None:
    """Break 40% of the labels of real handwritten digits, and find them: about a minute on two cores."""
    resolved = TrainSettings.for_dataset(**{**_DEMO, **settings})
    folder = choose_out_folder(out, Path("runs/demo"), resume)
    with o.explain_interruption(context, folder):
        Job(resolved, folder, BackendOptions(url, "disabled" if local else "online", api_key), run_id, resume).run()
    if url is None and not local:
        serve_command = format_command(
            "mild-service", "serve", "--embedded", "--data-dir", folder / "service" / "store"
        )
        typer.echo(
            f"To look at the run in a browser, start its service, then open the address:\n"
            f"    {serve_command}\n    http://127.0.0.1:8000"
        )


_SetOut: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="Write the clean set: a .csv with a line for each sample, or a .npy of indices."),
]
_AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON with --out, too, in place of sentences.")]


@app.command()
@o.expand_options(selection=o.FieldOptions(SelectionOptions, without=("evidence", "audit")))
def select(
    file: Annotated[
        Path,
        typer.Argument(
            help="A prediction log (.csv, .ndjson, .jsonl, .json, .parquet, .arrow, then .gz or .zst; a folder of "
            "them; Cartography's dynamics, AUM's full_aum_records.csv), a stats_dict .pkl of example forgetting, or a "
            ".npy or .npz with `correct`, 0 or 1, shape (n_epochs, n_samples): whether the model predicted the given "
            "label. An .npz may have `predicted` and `labels` in its place. It may add `observed` of the same shape; "
            "`planted` of shape (n_samples,), whose label was broken on purpose; to measure the set, `clean` of shape "
            "(n_samples,): a mask of right labels, or the true labels beside the given `labels`; and checked labels "
            "as `audit_index` and `audit_clean`, with `audit_random` true where the checked samples were drawn at "
            "random: --threshold fdr needs that."
        ),
    ],
    selection: dict[str, Any],
    columns: o.ColumnsOption = "",
    labels: Annotated[
        Path | None,
        typer.Option(help="The given labels, for predictions alone: a .npy, .csv, .json or .txt."),
    ] = None,
    samples_by: o.SamplesByOption = None,
    samples_first: Annotated[
        bool | None,
        typer.Option(
            "--samples-first/--epochs-first", help="Whether rows of an array are samples.", show_default=False
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw histogram, components and cut: a .png, .svg or .pdf.")] = None,
    out: _SetOut = None,
    as_json: _AsJson = False,
) -> None:
    """Print the clean set of a file of recorded predictions, as JSON; with --out, write and describe it."""
    from mild_trainer.file_selection import select_from_file
    from mild_trainer.recorded_bits import FileSource

    if out is not None:
        check_set_path(out, sources=[file, *([labels] if labels else [])])
    source = FileSource(file, parse_columns(columns, "--columns"), labels, samples_by, samples_first)
    result, clean_set, description = select_from_file(source, SelectionOptions(**selection), plot)
    if description:
        typer.echo(description, err=True)
    _print_selection(result, clean_set, out, as_json)


def _print_selection(selection: dict[str, Any], clean_set: CleanSet, out: Path | None, as_json: bool) -> None:
    """Print a selection as JSON, and what is known of it in sentences on stderr.

    With `out`, its clean set is written there first, and only the sentences are printed, on stdout; with `as_json` the
    JSON as well, without the lists of samples, which the file has.
    """
    texts, lists = describe_selection(selection), _LIST_FIELDS
    if out is not None:
        clean_set.write(out)
        texts, lists = [*texts, clean_set.describe_file(out)], ()
    prints_json = out is None or as_json
    if prints_json:
        typer.echo(_format_selection(selection, lists))
    for text in texts:
        typer.echo(text, err=prints_json)


_FIRST_FIELDS = ("num_samples", "num_selected", "bounds", "guarantee", "measured", "verdict", "reasons")
_LAST_FIELDS = ("fitted", "components")
_LIST_FIELDS: tuple[str, ...] = ("indices", "ids")


def _format_selection(selection: dict[str, Any], lists: Sequence[str]) -> str:
    """Return a selection as indented JSON, with each of its lists of samples that `lists` names, in one line.

    What was done and is known comes first, the figures of the fit last, before the lists.
    """
    others = [name for name in selection if name not in (*_FIRST_FIELDS, *_LAST_FIELDS, *_LIST_FIELDS)]
    names = [name for name in (*_FIRST_FIELDS, *others, *_LAST_FIELDS) if name in selection]
    head = json.dumps({name: selection[name] for name in names}, indent=2)
    samples = [f'  "{name}": {json.dumps(selection[name])}' for name in lists if selection.get(name) is not None]
    return ",\n".join([head.removesuffix("\n}"), *samples]) + "\n}"


@app.command()
def push(
    file: Annotated[
        Path,
        typer.Argument(help="A prediction log: .json, .jsonl, .csv, .arrow, .feather or .parquet; then .gz or .zst."),
    ],
    url: o.ServiceUrl,
    run_id: Annotated[
        str, typer.Option("--run-id", envvar="MILD_RUN_ID", help="The run: an open one, or with --create a new one.")
    ],
    api_key: o.ApiKey = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Commit the log's epochs, though not everyone is in.")
    ] = False,
    cartography: Annotated[
        bool, typer.Option("--cartography", help="The file holds Dataset Cartography's JSON lines.")
    ] = False,
    create: Annotated[
        bool, typer.Option("--create", help="Open the run, with the samples, ids and labels of the log, if it is new.")
    ] = False,
    num_samples: Annotated[
        int | None,
        typer.Option(min=1, help="With --create: samples of the run, if not those of the log."),
    ] = None,
    samples_by: o.SamplesByOption = None,
    columns: o.ColumnsOption = "",
    class_names: Annotated[
        str | None,
        typer.Option(
            help="Names of the classes 0, 1, … of a log with names: cat,dog,owl. With --create by default those in the "
            "log, in alphabetical order.",
        ),
    ] = None,
) -> None:
    """Send a prediction log to a run, and print what became of its epochs, as JSON."""
    from mild_client.logs import CARTOGRAPHY
    from mild_trainer.recorded_bits import FileSource
    from mild_trainer.service_runs import create_run

    with MildClient(url, api_key=api_key) as client:
        names: Sequence[str] | None = class_names and parse_class_names(class_names, "--class-names")
        source = FileSource(file, parse_columns(columns, "--columns"), samples_by=samples_by)
        if create:
            names = create_run(client, run_id, source, num_samples, names)
        pushed = client.push(
            run_id,
            file,
            complete,
            CARTOGRAPHY if cartography else None,
            samples_by=samples_by,
            columns=source.columns,
            class_names=names,
        )
        typer.echo(json.dumps(pushed, indent=2))
        typer.echo(f"Once all epochs are in: {format_command('mild', 'finish', run_id, '--url', url)}", err=True)


_Run: TypeAlias = Annotated[str, typer.Argument(help="The name of a run at the service.")]


@app.command()
def runs(
    url: o.ServiceUrl,
    api_key: o.ApiKey = None,
    limit: Annotated[int, typer.Option(min=1, help="Most runs in the list.")] = 50,
) -> None:
    """List the runs of a service, newest first."""
    from mild_trainer import service_runs

    with MildClient(url, api_key=api_key) as client:
        table = service_runs.build_runs_table(client, limit)
        if table.row_count:
            Console(markup=False).print(table)
        else:
            typer.echo(f"{client.url} has no runs; `mild push --create` and `mild train --url` open one")


@app.command()
@o.expand_options(selection=o.FieldOptions(SelectionOptions))
def get(
    run: _Run,
    selection: dict[str, Any],
    url: o.ServiceUrl,
    api_key: o.ApiKey = None,
    which: Annotated[
        str, typer.Option("--round", help="A round's number; latest: the last finished one; best: by the audit.")
    ] = "latest",
    out: _SetOut = None,
    as_json: _AsJson = False,
) -> None:
    """Print the clean set of a run at a service, as JSON; with --out, write and describe it.

    Options of the selection replace those of the run, and change nothing at the service.
    """
    if out is not None:
        check_set_path(out)
    with MildClient(url, api_key=api_key) as client:
        answer, clean_set = fetch_clean_set(client, run, which, selection)
    _print_selection(answer, clean_set, out, as_json)


@app.command()
def finish(
    run: _Run,
    url: o.ServiceUrl,
    api_key: o.ApiKey = None,
    allow_gaps: Annotated[
        bool, typer.Option("--allow-gaps", help="Count missing epochs as unobserved, which is an error without it.")
    ] = False,
    out: _SetOut = None,
    as_json: _AsJson = False,
) -> None:
    """Finish the open round of a run and the run itself, and print the clean set, as JSON; --out as for `mild get`."""
    from mild_trainer.service_runs import finish_run

    if out is not None:
        check_set_path(out)
    with MildClient(url, api_key=api_key) as client:
        number = finish_run(client, run, allow_gaps=allow_gaps)["round"]
        selection, clean_set = fetch_clean_set(client, run, number)
    _print_selection(selection, clean_set, out, as_json)


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="The folder of a training (its --out), or a run's name at --url.")],
    url: o.Url = None,
    api_key: o.ApiKey = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
) -> None:
    """Write one page of a run: its rounds, its data map, and the samples whose labels look wrong, with pictures."""
    from mild_trainer.report.report import write_run_report

    if out.suffix.lower() not in (".html", ".htm"):
        raise DataError(f"the page {out} ends in {out.suffix!r}; give a file that ends in .html")
    typer.echo(f"Written: {write_run_report(run, url, api_key, out)}")


@app.command()
def review(
    run: Annotated[str, typer.Argument(help="The folder of a training (its --out), or a run's name at --url.")],
    url: o.Url = None,
    api_key: o.ApiKey = None,
    limit: Annotated[int, typer.Option(min=1, help="Most samples in the list.")] = 200,
    order: Annotated[
        review_list.Order, typer.Option(help="Which come first; only a random order measures the whole set.")
    ] = "suspicious",
    seed: Annotated[int, typer.Option(min=0, help="Of a random order.")] = 0,
    draw: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="List this many samples that the service draws at random: once all are marked, the set is bounded.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The list to write; it must not exist.")] = Path("review.csv"),
    marks: Annotated[
        Path | None,
        typer.Option(
            help="A list, or a clean.csv, with `clean`, `wrong` or `unsure` (counts as wrong) in its column `mark`: "
            "read it back.",
        ),
    ] = None,
    set_out: Annotated[
        Path | None,
        typer.Option(
            "--set",
            help="With --marks: write the set that follows all marks, and whose fit they calibrate: a .csv or a .npy.",
        ),
    ] = None,
) -> None:
    """List the samples that people should check, as CSV; with --marks, take in what they found and measure the set."""
    from mild_trainer.review.review_runs import open_reviewed_run

    with open_reviewed_run(run, url, api_key) as reviewed:
        if set_out is not None:
            check_set_path(set_out)
        if marks is not None:
            samples = reviewed.score_samples()
            audit = review_list.read_marks(marks, samples.kept.size)
            typer.echo(json.dumps(reviewed.add_marks(audit), indent=2))
            if set_out is not None:
                selection, clean_set = reviewed.select_with_audit()
                clean_set.write(set_out)
                typer.echo(
                    f"{clean_set.describe_file(set_out)}; it follows all marks. Verdict: {selection['verdict']}",
                    err=True,
                )
            for text in _describe_audit(reviewed):
                typer.echo(text, err=True)
            if reviewed.training is not None:
                from mild_trainer.report.report import write_reports

                page, card = write_reports(reviewed, reviewed.training)
                typer.echo(f"Written again, with all marks: {page} and {card}", err=True)
            return
        if out.exists():
            raise review_list.make_exists_error(out)  # before all the work
        url_option = "" if url is None else f" --url {url}"
        back = f"then: mild review {run}{url_option} --marks {out}"
        if draw is not None:
            _write_draw(reviewed, draw, out)
            typer.echo(
                "Decide on the number before the first mark: to look and then draw more breaks the bound. Write clean, "
                f"wrong or unsure (counts as wrong) into the column `mark`, {back}"
            )
            return
        samples = reviewed.score_samples()
        first = review_list.rank_samples(samples, order, seed)[:limit]
        review_list.write_list(out, reviewed.name_samples(samples, first).format_rows(first))
        typer.echo(
            f"{out}: {len(first)} of {samples.kept.size} samples; write clean, wrong or unsure (counts as wrong) into "
            f"the column `mark`, {back}"
        )


def _write_draw(reviewed: "ReviewedRun", n_drawn: int, out: Path) -> None:
    """Write a list of samples drawn at random, and print the choice recorded with them and what draws would bound."""
    draw = reviewed.draw_samples(n_drawn)
    review_list.write_list(out, draw.rows)
    typer.echo(f"{out}: {len(draw.rows)} samples drawn at random; recorded with them: {draw.choice}")
    for plan in draw.plans:
        typer.echo(
            f"  {plan.n} checks ({plan.checking_time}): at most {format_at_most(plan.upper)} of the kept labels wrong, "
            "the drawn ones aside, with 90% confidence, if 5% of the kept ones among them are wrong"
        )
    if draw.n_answered:
        typer.echo(f"{draw.n_answered} of them are answered already; their rows may stay empty")


def _describe_audit(reviewed: "ReviewedRun") -> list[str]:
    """Return the sentences that follow the marks: what a complete draw bounds, or what is missing for it."""
    draw = reviewed.read_draw()
    if draw is None:
        return ["These figures speak for the checked samples; for all only if they were drawn at random."]
    n_unanswered, n_drawn, recorded = draw
    if recorded is None:
        return [
            f"{n_drawn - n_unanswered} of {n_drawn} drawn samples are answered; the statement comes with the last of "
            f"the other {n_unanswered}."
        ]
    own = reviewed.read_selection()
    described = {
        f"The set of round {own['round']}, as it was made": own,
        "The set that was recorded with the draw": recorded,
    }
    texts = []
    for name, selection in described.items():
        texts.append(f"{name}: {selection['num_selected']:,} of {selection['num_samples']:,} samples.")
        texts += [f"  {statement.text}" for statement in describe_quality(selection)]
    return texts


@app.command()
def sync(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="[DIR]", envvar="MILD_SPOOL_DIR", help="A spool, or a folder with spools somewhere in it."
        ),
    ] = Path(),
    url: o.SyncUrl = None,
    api_key: o.ApiKey = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what there is to send, and send nothing.")] = False,
    refused: Annotated[
        bool, typer.Option("--refused", help="List what the service has refused, with the reasons; send nothing else.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="With --refused: send it again.")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="With --refused: give it up, for good.")] = False,
) -> None:
    """Send what trainings have kept while the service was away; exit with 1 if anything is refused or left."""
    if ((again or drop) and (not refused or again == drop)) or (refused and dry_run):
        raise typer.BadParameter("--again and --drop go with --refused, one at a time; --dry-run goes without it")
    if refused:
        _handle_refused(folder, "send" if again else "drop" if drop else None, url, api_key)
        return
    results = list(spools.sync_spools(folder, url, api_key, dry_run=dry_run))
    if not results:
        typer.echo(f"{folder}: no spool is in it or below, so there is nothing to send")
        return
    table = Table("run", "sent", "refused", "left", "bytes left", "spool")
    for result in results:
        numbers = (result.n_sent, result.n_refused, result.n_unsent, result.n_unsent_bytes)
        table.add_row(result.run_id, *map(str, numbers), str(result.folder), style=None if result.is_done else "yellow")
    Console(markup=False).print(table)
    for result in results:
        if result.problem:
            typer.echo(f"{result.folder}: {result.problem}", err=True)
        if result.n_refused:
            typer.echo(
                f"{result.folder} has what was refused; see why with: "
                f"{format_command('mild', 'sync', result.folder, '--refused')}",
                err=True,
            )
    if not dry_run and not all(result.is_done for result in results):
        raise typer.Exit(1)


def _handle_refused(folder: Path, action: spools.RefusedAction | None, url: str | None, api_key: str | None) -> None:
    """List, send or drop refused records, a line each; exit with 1 if any is left."""
    n_left = n_records = 0
    for result in spools.handle_refused(folder, action, url, api_key):
        n_records += 1
        n_left += not result.is_sent and action != "drop"
        outcome = "sent" if result.is_sent else "dropped" if action == "drop" else "refused"
        typer.echo(f"{result.run_id}: {outcome} {result.name}" + (f": {result.reason}" if result.reason else ""))
    if not n_records:
        typer.echo(f"{folder}: nothing that was refused is in it or below")
    if n_left:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":  # for torchrun -m
    main()
