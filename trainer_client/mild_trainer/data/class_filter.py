"""`ClassFilter`, the classes of a data set that are loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mild_core.errors import get_reason
from mild_trainer.errors import DataError


@dataclass(frozen=True, slots=True)
class ClassFilter:
    """The classes to load, and the size of the images.

    Attributes
    ----------
    classes
        ``all``; ``present``, those that have samples; of a folder of images also the number of classes to take from
        the first on, or a file whose lines begin with the names of classes.
    size
        Height and width that images are resized to; 0 takes the default of the loader.
    """

    classes: str = "all"
    size: int = 0

    def select_indices(self, names: Sequence[str]) -> list[int]:
        """Return the positions of the selected classes in `names`, those of all classes, in the order of `classes`."""
        if self.classes in ("all", "present"):
            return list(range(len(names)))
        if self.classes.isdecimal():
            n_classes = int(self.classes)
            if not 1 <= n_classes <= len(names):
                raise DataError(
                    f"--classes is {n_classes}, and there are {len(names)}; give a number in 1..{len(names)}"
                )
            return list(range(n_classes))
        path = Path(self.classes)
        try:
            selected_names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"--classes {path} cannot be read ({get_reason(error)}); give a number or a list of classes"
            ) from None
        positions = {name: i for i, name in enumerate(names)}
        unknown = [name for name in selected_names if name not in positions]
        if unknown or not selected_names or len(set(selected_names)) < len(selected_names):
            problem = f"names {unknown[0]!r}, which is no class here" if unknown else "names no class, or one twice"
            raise DataError(f"--classes {path} {problem}; list names such as {names[0]!r}, each once")
        return [positions[name] for name in selected_names]

    def renumbers(self, dataset: str) -> bool:
        """Return whether numbers of classes that leave some out are to be replaced by positions among those left."""
        if self.size:
            raise DataError(f"--image-size is {self.size}, for folders of images and not for {dataset}; leave it out")
        if self.classes not in ("all", "present"):
            raise DataError(f"--classes is {self.classes}, and {dataset} takes all or present; leave it out")
        return self.classes == "present"
