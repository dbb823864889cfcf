"""Command lines in messages: they run as printed in the user's shell, with or without an activated environment."""

import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

_MODULES = {"mild": "mild_trainer.cli", "mild-service": "mild_service.cli"}


def command(name: str, *arguments: str | Path) -> str:
    """Return a command line that runs the script `name` of this installation from the working folder.

    It begins with the bare name where ``PATH`` finds this installation's script, else with the script's path, such as
    ``.venv/bin/mild``. Without a script it runs the module.
    """
    on_path = shutil.which(name)
    script = shutil.which(name, path=sysconfig.get_path("scripts"))
    if script is None:
        words = [name] if on_path else [sys.executable, "-m", _MODULES[name]]
    elif on_path is not None and Path(on_path).samefile(script):
        words = [name]
    else:
        words = [_from_here(Path(script))]
    return shlex.join([*words, *map(str, arguments)])


def _from_here(script: Path) -> str:
    """The path relative to the working folder if that is above the script's folder, else the absolute path."""
    here = Path.cwd()
    return str(script.relative_to(here) if here in script.parent.parents else script)
