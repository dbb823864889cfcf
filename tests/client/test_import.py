import subprocess
import sys

import pytest

import mild_client


def test_the_client_loads_neither_a_web_framework_nor_redis_nor_torch() -> None:
    code = (
        "import sys, mild_client; "
        "print(sorted({'redis', 'fastapi', 'starlette', 'pydantic', 'torch', 'mild_service'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_tracker_is_there_on_first_use() -> None:
    assert mild_client.CorrectnessTracker.__module__ == "mild_client.tracker"


def test_every_public_name_is_there() -> None:
    assert all(hasattr(mild_client, name) for name in mild_client.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Tracker'"):
        mild_client.Tracker  # noqa: B018  # the access is what raises
