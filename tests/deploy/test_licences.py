"""Licences of what is installed: permissive, and written down."""

import re
from importlib.metadata import distributions

from tests.deploy.licences import licence, normal, pinned, rows

PERMISSIVE = r"apache|mit|bsd|isc|psf|python|mpl|mozilla|zlib|cc0|bsl-1.0|cnri|unlicense"
"""MPL holds for changes of the files themselves, which nobody here makes."""


def test_every_pinned_dependency_has_its_licence_written_down() -> None:
    assert set(rows()) == set(pinned())


def test_every_licence_is_permissive_and_the_one_that_the_package_names() -> None:
    written = rows()
    for distribution in distributions():
        name = normal(distribution.name)
        if name not in written:
            continue  # not ours: an environment may hold more
        found = licence(distribution)
        if found:
            assert written[name] == found, name
        parts = re.split(r" AND | OR |; ", written[name])
        assert any(re.search(PERMISSIVE, part.lower()) for part in parts), f"{name}: {written[name]}"
        if " OR " not in written[name]:
            assert not re.search(r"\b[AL]?GPL|Affero", written[name]), f"{name}: {written[name]}"
