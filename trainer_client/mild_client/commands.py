"""Command lines for messages, which the user can run as printed, with or without an activated environment."""

import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

_MODULES = {"mild": "mild_trainer.cli", "mild-service": "mild_service.cli"}


def format_command(name: str, *arguments: str | Path) -> str:
    """Return a command line that runs the script `name` of this installation from the working folder.

    The line begins with `name` if ``PATH`` finds this installation's script, and with the path of the script, such as
    ``.venv/bin/mild``, if not. If the script does not exist, the line runs the module.

    Parameters
    ----------
    name
        ``mild`` or ``mild-service``.
    *arguments
        Arguments of the command, which are quoted for the shell.
    """
    on_path = shutil.which(name)
    script = shutil.which(name, path=sysconfig.get_path("scripts"))
    if script is None:
        words = [name] if on_path else [sys.executable, "-m", _MODULES[name]]
    elif on_path is not None and Path(on_path).samefile(script):
        words = [name]
    else:
        words = [_shorten_path(Path(script))]
    return shlex.join([*words, *map(str, arguments)])


def _shorten_path(script: Path) -> str:
    """Return the path relative to the working folder if the script is below it, and the absolute path if not."""
    here = Path.cwd()
    return str(script.relative_to(here) if here in script.parent.parents else script)
