"""Runs one command for as long as whoever started it lives: ``python -m mild_trainer.supervisor LOCK COMMAND...``.

A trainer that is killed cannot stop its service any more. So the service runs under this small process, which ends it
once its standard input closes, and that happens however the trainer ends. The lock keeps a successor waiting until
the service before it has let go of the folder.
"""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path


def main(lock: Path, command: list[str]) -> int:
    """Run `command` and return its exit status; end it when standard input closes."""
    with lock.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{lock.parent} is in use by another training; waiting until that ends", file=sys.stderr, flush=True)
            fcntl.flock(held, fcntl.LOCK_EX)
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        threading.Thread(target=_end_with_input, args=(child,), daemon=True).start()
        return child.wait()


def _end_with_input(child: "subprocess.Popen[bytes]") -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    child.terminate()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
