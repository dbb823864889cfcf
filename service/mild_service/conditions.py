"""What must be there for a write to go on: conditional requests (RFC 9110, section 13), without HTTP."""

from dataclasses import dataclass

from mild_service.errors import PreconditionFailed


@dataclass(frozen=True, slots=True)
class Condition:
    """What a caller knows, or believes to know, of what it writes over.

    Attributes
    ----------
    absent
        Nothing may be there.
    digests
        One of these must be there; empty: anything that is there will do. None: no demand.
    """

    absent: bool = False
    digests: frozenset[str] | None = None

    @property
    def code(self) -> str:
        """The same in a word, as scripts take it: empty for no demand, ``!`` absent, ``*`` anything, or the digests."""
        if self.absent:
            return "!"
        return "" if self.digests is None else " ".join(sorted(self.digests)) or "*"

    def check(self, what: str, held: str | None) -> None:
        """Return when what is there, by its digest, is as demanded.

        Raises
        ------
        PreconditionFailed
            If it is not.
        """
        if self.absent and held is not None:
            raise unmet(what, self, held)
        if self.digests is not None and (held is None or (self.digests and held not in self.digests)):
            raise unmet(what, self, held)


NO_CONDITION = Condition()


def unmet(what: str, condition: Condition, held: str | None) -> PreconditionFailed:
    """The error for a write that may not go on."""
    there = "there is nothing yet" if held is None else f'the ETag "{held}" is there'
    wanted = "If-None-Match: * wants nothing there" if condition.absent else "If-Match names another"
    return PreconditionFailed(f"of {what} {there}, {wanted}; look at what is there, and send the condition anew")
