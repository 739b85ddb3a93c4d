"""A supervisor over shells: in this process, where each line that it says is heard, or alone.

Run as a script, it is one that can be killed: FOLDER NAME SCRIPT [NAME SCRIPT]...
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from twinlens.cli.service.supervisor import Service, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# With a process in its group. It says that its traps are set, and waits: so they run at once.
STAY = "sleep 60 & touch $NAME.up; wait"


def shell(folder: Path, name: str, script: str = STAY, **options: Any) -> Service:
    """A service that is ready once it has said so in NAME.up."""
    options = {"is_ready": (folder / f"{name}.up").exists, **options}
    env = {"PATH": os.environ["PATH"], "NAME": name}
    return Service(name, ["sh", "-c", f"cd '{folder}'; {script}"], env, **options)


def at_once(folder: Path, name: str, script: str = STAY, **options: Any) -> Service:
    """A service that is ready whatever it does."""
    return shell(folder, name, script, **{"is_ready": lambda: True, **options})


def stop(number: signal.Signals = signal.SIGTERM) -> None:
    """Sends this process a signal; for use while a supervisor runs in it, which catches it."""
    os.kill(os.getpid(), number)


class Scene:
    """One run of a supervisor in this process.

    Attributes:
        said: Its lines, without pids.
        pids: What it told of its processes, change by change.
        hear: Called with each line of `said`.
        note: Called with each change of the processes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.pids: list[dict[str, int]] = []
        self.hear: Callable[[str], object] = lambda _: None
        self.note: Callable[[dict[str, int]], None] = self.pids.append
        self._others = set(psutil.Process().children(recursive=True))

    def run(
        self, *steps: Sequence[Service], on_ready: Callable[[], object] = stop, lock: str = "lock"
    ) -> None:
        """Runs until a signal comes; by default one comes when all are ready."""
        with (self.folder / lock).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            supervisor = Supervisor(steps, self.folder, self._say, self.note)
            supervisor.run(file.fileno(), on_ready=lambda: self._ready(on_ready))

    def running(self) -> list[psutil.Process]:
        """Returns this process' descendants; not those that were there before."""
        return [one for one in psutil.Process().children(recursive=True) if one not in self._others]

    def _ready(self, on_ready: Callable[[], object]) -> None:
        self.said.append("ready")
        on_ready()

    def _say(self, line: str) -> None:
        self.said.append(re.sub(r" \(pid \d+\)", "", line))
        self.hear(self.said[-1])


def is_locked(path: Path) -> bool:
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def supervisor_alone(folder: Path, **scripts: str) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """Runs a supervisor as a process of its own, and gives it with its pids once all is ready."""
    words = [word for pair in scripts.items() for word in pair]
    with subprocess.Popen(
        [sys.executable, "-P", __file__, str(folder), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def main() -> None:
    folder, *words = sys.argv[1:]
    scene = Scene(Path(folder))
    pairs = zip(words[::2], words[1::2], strict=True)
    services = [shell(scene.folder, name, script) for name, script in pairs]

    def on_ready() -> None:
        sys.stdout.write(json.dumps(scene.pids[-1]) + "\n")
        sys.stdout.flush()

    scene.run(services, on_ready=on_ready)


if __name__ == "__main__":
    main()
