"""Outlives `twinlens up` by a moment: if it is killed, everything that it started is killed too.

The supervisor writes the process groups it has, one line a change, to this process' standard
input. The line ends with the supervisor, however that ends. (PR_SET_PDEATHSIG would reach
children alone, not their children, and on Linux alone.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def kill_group(group: int) -> None:
    """Kills every process of a group, if there is any."""
    # macOS says EPERM of a group that has only zombies left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


class Guard:
    """The supervisor's side of the guard process."""

    def __init__(self, lock_fd: int) -> None:
        """Starts the guard.

        Args:
            lock_fd: Lock of the data directory. The guard holds it as well, so that it is free
                only when nothing that writes there is left.
        """
        self._lock_fd = lock_fd
        self._groups: list[int] = []
        self._process = self._start()

    def watch(self, groups: Iterable[int]) -> None:
        """Names the groups that are to be killed, instead of those named before."""
        self._groups = list(groups)
        self._send_groups()

    def check(self) -> None:
        """Starts the guard again if it has died."""
        if self._process.poll() is not None:
            assert self._process.stdin is not None
            # A line that it did not live to read is still in the buffer.
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process = self._start()
            self._send_groups()

    def close(self) -> None:
        """Ends the guard, which kills what is still named."""
        self._process.communicate()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "twinlens.cli.service.guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            pass_fds=[self._lock_fd],
        )

    def _send_groups(self) -> None:
        assert self._process.stdin is not None
        # If it has just died, the next check starts another.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(" ".join(map(str, self._groups)) + "\n")
            self._process.stdin.flush()


def main() -> None:
    """Waits for the end of the input, then kills the groups that its last whole line names."""
    groups: list[int] = []
    for line in sys.stdin:
        if line.endswith("\n"):
            groups = [int(word) for word in line.split()]
    for group in groups:
        kill_group(group)


if __name__ == "__main__":
    main()
