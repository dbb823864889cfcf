"""The HTML page of a report, self-contained and with light and dark colours, and the elements of the page."""

from collections.abc import Iterable
from html import escape
from string import Template

from mild_core.statements import Statement

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
.known { border-left: 3px solid var(--accent); padding-left: 14px; margin: 20px 0; }
.known p { margin: 0 0 6px; } .known p:first-child { color: var(--ink); font-size: 17px; font-weight: 600; }
.fitted { font-size: 13px; }
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
.heat td { border-left: 1px solid var(--line); text-align: right; }
.heat td:last-child, .counts th:last-child, .counts td:last-child { text-align: right; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px; }
.samples figcaption { font-size: 13px; margin: 8px 0 0; } .samples figcaption b { color: var(--ink); display: block; }
.samples img { width: 96px; height: 96px; object-fit: contain; image-rendering: pixelated; display: block; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
</style>
</head>
<body><main>
<h1>$title</h1>
<p>$subtitle</p>
$body
</main></body></html>
""")


def render_page(title: str, subtitle: str, body: str) -> str:
    """Return the whole page as HTML; `title` and `subtitle` are escaped, `body` is HTML already."""
    return _PAGE.substitute(title=escape(title), subtitle=escape(subtitle), body=body)


def render_statements(statements: Iterable[Statement], next_step: str | None) -> str:
    """Return what is known of a set as HTML, without what only the fit says, which `render_fitted` shows."""
    texts = [statement.text for statement in statements if statement.basis != "fitted"]
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in filter(None, (*texts, next_step)))
    return f"<div class='known'>{paragraphs}</div>" if paragraphs else ""


def render_fitted(statements: Iterable[Statement]) -> str:
    """Return what only the fit says, as small HTML; empty where it says nothing."""
    return "".join(f"<p class='fitted'>{escape(each.text)}</p>" for each in statements if each.basis == "fitted")


def render_cards(cards: Iterable[tuple[str, str]]) -> str:
    """Return boxes with one large value each as HTML; `cards` has the name and the value of each box."""
    boxes = (f"<div class='card'><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in cards)
    return f"<div class='cards'>{''.join(boxes)}</div>"


def render_table(headings: Iterable[str], rows: Iterable[str], css_class: str = "") -> str:
    """Return a table as HTML; `headings` are escaped, `rows` are HTML already, as `render_row` returns it."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f"<div class='wide'><table{_format_class_attribute(css_class)}>{body}</table></div>"


def render_row(cells: Iterable[str], css_class: str = "") -> str:
    """Return a table row as HTML; `cells` are escaped."""
    return f"<tr{_format_class_attribute(css_class)}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _format_class_attribute(css_class: str) -> str:
    return f" class='{css_class}'" if css_class else ""
