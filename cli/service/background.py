"""Runs `twinlens up` beside us, for as long as we need it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlens.cli.errors import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Running:
    """A whole service that is ready."""

    url: str
    process: subprocess.Popen[str]


@contextlib.contextmanager
def running_service(data_dir: Path, port: int = 0, *options: str) -> Iterator[Running]:
    """Starts a whole service, and stops it at the end.

    Args:
        data_dir: Where it keeps its data.
        port: 0 for any free one.
        options: More options for `twinlens up`.

    Raises:
        CommandFailed: It did not come up.
    """
    # -P: what lies in the directory that we were started in is not imported.
    command = [sys.executable, "-P", "-m", "twinlens.cli.main", "up"]
    command += ["--data-dir", str(data_dir), "--port", str(port), *options]
    # A session of its own: a Ctrl-C is ours to pass on.
    with subprocess.Popen(  # noqa: S603 (the command is ours)
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("ready "):
                    yield Running(line.split()[1], process)
                    break
            else:
                raise CommandFailed("the service did not come up")
        finally:
            process.terminate()
            process.wait()
