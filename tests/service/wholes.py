"""Bodies of epochs that are there already, for what reads them without HTTP."""


class Whole:
    """A body."""

    sha256 = None

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read_prefix(self, limit: int) -> bytes:
        return self._content[: limit + 1]
