"""What of a folder of images is wanted: which classes, and how large."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mild_trainer.errors import DataError


@dataclass(frozen=True, slots=True)
class Wanted:
    """A choice of classes and a size.

    Attributes
    ----------
    classes
        ``all``; a number: so many classes from the first on; or a file whose lines' first words are their names.
    size
        Height and width that images are brought to; 0: those of the first image.
    """

    classes: str = "all"
    size: int = 0

    def of(self, names: Sequence[str]) -> list[int]:
        """Return the places of the classes wanted among `names`, in the order of the choice.

        Raises
        ------
        DataError
            If there are not as many, the file cannot be read, or it names an unknown class.
        """
        if self.classes == "all":
            return list(range(len(names)))
        if self.classes.isdecimal():
            n_wanted = int(self.classes)
            if not 1 <= n_wanted <= len(names):
                raise DataError(
                    f"--classes is {n_wanted}, and there are {len(names)}; give a number in 1..{len(names)}"
                )
            return list(range(n_wanted))
        path = Path(self.classes)
        try:
            chosen = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"--classes {path} cannot be read ({error}); give a number or a list of classes") from None
        places = {name: i for i, name in enumerate(names)}
        unknown = [name for name in chosen if name not in places]
        if unknown or not chosen or len(set(chosen)) < len(chosen):
            said = f"names {unknown[0]!r}, which is no class here" if unknown else "names no class, or one twice"
            raise DataError(f"--classes {path} {said}; list names such as {names[0]!r}, each once")
        return [places[name] for name in chosen]
