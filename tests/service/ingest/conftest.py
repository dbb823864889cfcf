from collections.abc import Iterator

import pytest

from tests.service.ingest.reading import SANDBOX


@pytest.fixture(scope="session", autouse=True)
def _helper_ends() -> Iterator[None]:
    yield
    SANDBOX.close()
