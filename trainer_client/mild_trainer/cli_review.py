"""``mild review``: the command line of a review."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mild_trainer import options as o
from mild_trainer.one_line import one_line_errors
from mild_trainer.review import Order


def review(
    run: Annotated[str, typer.Argument(help="The folder of a training (its --out), or a run's name at --url.")],
    url: o.Url = None,
    api_key: o.ApiKey = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Most samples in the list.")] = 200,
    order: Annotated[
        Order, typer.Option("--order", help="Which come first; only a random order measures the whole set.")
    ] = "suspicious",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of a random order.")] = 0,
    out: Annotated[Path, typer.Option("--out", help="The list to write; it must not exist.")] = Path("review.csv"),
    marks: Annotated[
        Path | None, typer.Option("--marks", help="A list with `clean` or `wrong` in its column `mark`: read it back.")
    ] = None,
    set_out: Annotated[
        Path | None,
        typer.Option(
            "--set",
            help="With --marks: write the set that knows all marks, and whose fit they calibrate, as .npy of indices.",
        ),
    ] = None,
) -> None:
    """List the samples that people should check, as CSV; with --marks, take in what they found and measure the set."""
    from mild_trainer import review as lists
    from mild_trainer.review_runs import opened

    with one_line_errors(), opened(run, url, api_key) as reviewed:
        if marks is not None:
            judged = reviewed.judged()
            found = lists.read_marks(marks, judged.kept.size)
            typer.echo(json.dumps(reviewed.mark(found), indent=2))
            if set_out is not None:
                lists.write_set(set_out, *reviewed.refit())
            typer.echo(
                "These figures speak for the checked samples; for all only if they were drawn at random.", err=True
            )
            return
        if out.exists():
            raise lists.exists(out)  # before all the work
        judged = reviewed.judged()
        first = lists.ranked(judged, order, seed)[:limit]
        lists.write(out, reviewed.lines(judged, first))
        where = "" if url is None else f" --url {url}"
        typer.echo(
            f"{out}: {len(first)} of {judged.kept.size} samples; write clean or wrong into the column `mark`, "
            f"then: mild review {run}{where} --marks {out}"
        )
