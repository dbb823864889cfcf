"""``report.html``: a training on one page that needs nothing else."""

from html import escape
from pathlib import Path
from string import Template

from mild_trainer import figures, summary
from mild_trainer.history import History, RoundRecord

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1d2330; --soft: #5d6675; --line: #dfe3ea;
  --accent: #1f7a70; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12151b; --card: #1a1f28; --ink: #e7eaf0; --soft: #9aa4b5; --line: #2c3442; --accent: #4cc2b3; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 12px; }
p, figcaption { color: var(--soft); margin: 0 0 12px; } .wide + p { margin-top: 12px; }
.alarm { color: #d1495b; font-weight: 600; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 20px 0; }
.card, figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.card b { display: block; font-size: 24px; color: var(--accent); font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 13px; }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 12px; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
th { border-top: 0; color: var(--soft); font-weight: 600; font-size: 13px; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
tr.comparison td { color: var(--soft); }
figure { margin: 0; } figure svg { width: 100%; height: auto; }
figure h3 { margin: 0; font-size: 15px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(460px, 100%), 1fr)); gap: 14px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
</style>
</head>
<body><main>
<h1>$title</h1>
<p>$subtitle</p>
$verified
<div class="cards">$cards</div>
<h2>Rounds</h2>
<div class="wide"><table><thead><tr>$headings</tr></thead><tbody>$rows</tbody></table></div>
$alarms
<p>$ended</p>
<h2>Scores, components and cuts</h2>
<div class="figures">$histograms</div>
<h2>Loss and accuracy</h2>
<figure>$curves</figure>
<h2>Settings</h2>
<figure><dl>$settings</dl></figure>
</main></body></html>
""")


def write(history: History, folder: Path) -> Path:
    """Write ``report.html`` into `folder` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    path.write_text(render(history), encoding="utf-8")
    return path


def render(history: History) -> str:
    """Return the page."""
    numbers = summary.summarise(history)
    data, settings = history.data, history.settings
    flat = {**numbers["settings"], **{f"selection {k}": v for k, v in numbers["settings"]["selection"].items()}}
    del flat["selection"]
    facts = {**flat, **numbers["versions"]}
    return _PAGE.substitute(
        title=escape(f"{data.name}, noise {settings.noise}"),
        subtitle=escape(
            f"{data.n_samples:,} training and {len(data.y_test):,} test images of {data.n_classes} classes; "
            f"{settings.model}, {settings.epochs} epochs a round, observe {settings.observe}, seed {settings.seed}."
        ),
        verified=_verified(history),
        cards="".join(
            f"<div class='card'><b>{value}</b><span>{label}</span></div>" for label, value in _cards(history)
        ),
        headings="".join(f"<th>{escape(heading)}</th>" for heading in summary.HEADINGS),
        rows="".join(_row(row, i >= len(history.rounds)) for i, row in enumerate(summary.rows(history))),
        ended=escape(" ".join(filter(None, (summary.planting(history), f"No further round: {history.ended}.")))),
        alarms="".join(f"<p class='alarm'>{escape(alarm)}</p>" for alarm in summary.alarming(history)),
        histograms="".join(_figure(record) for record in history.rounds),
        curves=figures.curves(history),
        settings="".join(
            f"<dt>{escape(name)}</dt><dd>{'-' if value is None else escape(str(value))}</dd>"
            for name, value in facts.items()
        ),
    )


def _verified(history: History) -> str:
    found = history.verified
    if found is None:
        return ""
    return f"<p{'' if found.carries_signal else ' class=alarm'}>{escape(found.told)}.</p>"


def _cards(history: History) -> list[tuple[str, str]]:
    if not history.rounds:
        return []
    last = history.rounds[-1]
    cards = [
        ("samples kept", f"{last.n_selected:,}"),
        ("noise, estimated", summary.number(last.estimated_noise)),
        ("test accuracy, last round", summary.number(last.test_accuracy)),
        ("test accuracy, all labels", summary.number(history.baseline)),
    ]
    if history.oracle is not None:
        cards.append(("test accuracy, true clean set", summary.number(history.oracle)))
    if last.agreement is not None:
        cards.insert(1, ("F1 of the clean set", summary.number(last.agreement.f1)))
    return cards


def _row(cells: tuple[str, ...], is_comparison: bool) -> str:
    kind = " class='comparison'" if is_comparison else ""
    return f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _figure(record: RoundRecord) -> str:
    reasons = "; ".join(str(reason) for reason in record.summary["reasons"])
    picture = figures.histogram(record) or "<p>Nothing was fitted.</p>"
    return (
        f"<figure><h3>Round {record.round}: {escape(record.summary['verdict'])}</h3>"
        f"<figcaption>{escape(reasons)}</figcaption>{picture}</figure>"
    )
