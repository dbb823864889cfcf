"""Licences of what is installed, and the document that lists them: ``python -m tests.deploy.licences`` renews it."""

import re
from importlib.metadata import Distribution, distributions
from pathlib import Path

DOCUMENT = Path("docs/dependencies.md")
UNNAMED = {"axe-playwright-python": "MIT", "namex": "Apache-2.0"}
"""What a package does not name: the licence in its repository."""
HEAD = """# Dependencies and their licences

What `constraints.txt` pins, with the licence that each distribution names in its metadata; all are permissive, or MPL,
which holds for changes of the files themselves. A test compares this page with what is installed;
`python -m tests.deploy.licences` writes it anew. What the service's image holds is the part of it that
`mild-selection[service,formats,cli]` needs.

Vendored: uPlot, MIT ([its licence](../service/mild_service/ui/static)), in the dashboard.

| distribution | licence |
|---|---|
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> dict[str, str]:
    lines = [line for line in Path("constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {normal(name): version for name, version in (line.split("==") for line in lines)}


def licence(distribution: Distribution) -> str:
    fields = distribution.metadata
    classifiers = [line.split("::")[-1].strip() for line in fields.get_all("Classifier", []) if "License ::" in line]
    alone = fields.get_all("License-Expression", []) or [line for line in ["; ".join(classifiers)] if line]
    named = (alone or fields.get_all("License", []) or [UNNAMED.get(normal(distribution.name), "")])[0]
    return " ".join(named.split())[:80].strip()


def rows() -> dict[str, str]:
    """Licence of each pinned distribution, as the document has it."""
    lines = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", DOCUMENT.read_text(), re.MULTILINE)
    return {normal(name): found.strip() for name, found in lines}


def main() -> None:
    """Write the document from what is installed; what is not keeps its row."""
    known = rows() if DOCUMENT.exists() else {}
    found = known | {normal(each.name): licence(each) for each in distributions()}
    lines = [f"| `{name}` | {found.get(name) or 'unknown'} |" for name in sorted(pinned())]
    DOCUMENT.write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
