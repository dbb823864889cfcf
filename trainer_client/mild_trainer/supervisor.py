"""Program that runs a command until its parent process ends: ``python -m mild_trainer.supervisor LOCK COMMAND...``.

A killed trainer cannot stop its service. So the service runs under this process. Its standard input closes when the
trainer ends, even if it was killed, and then this process terminates the service. The lock makes the next training wait
until the service has released the folder.
"""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path


def main(lock_path: Path, command: list[str]) -> int:
    """Run `command` under a lock and return its exit status; terminate it when standard input closes."""
    with lock_path.open("a") as lock_file:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(
                f"{lock_path.parent} is in use by another training; waiting until that ends",
                file=sys.stderr,
                flush=True,
            )
            fcntl.flock(lock_file, fcntl.LOCK_EX)
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        threading.Thread(target=_terminate_when_input_closes, args=(child,), daemon=True).start()
        return child.wait()


def _terminate_when_input_closes(child: "subprocess.Popen[bytes]") -> None:
    """Read standard input until it closes, and terminate `child`."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    child.terminate()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
