from pathlib import Path

import pytest

from mild_core.errors import describe_os_error


def test_an_error_of_the_operating_system_says_path_and_remedy() -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        Path("/no/such").read_text()
    assert describe_os_error(caught.value).startswith("/no/such: No such file or directory; check the path")
    assert describe_os_error(OSError("full")).startswith("full; check the path")
