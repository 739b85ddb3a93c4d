"""How many cores we may compute on."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def n_cores(root: Path = Path("/")) -> int:
    """Returns how many cores we may compute on: of the machine's, those that are ours.

    A container may have only some of them (`cpuset`), or a share of their time (`cpus: 1.5`, which
    keeps two cores busy).

    Args:
        root: Where the system's files are.
    """
    try:
        n_allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        n_allowed = os.cpu_count() or 1
    return min([n_allowed, *map(math.ceil, _quotas(root))])


def _quotas(root: Path) -> Iterator[float]:
    """Gives the cores' time that our control groups may take, each and those above it."""
    mounted = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        is_second = not controllers  # of the interface's two versions
        if not is_second and "cpu" not in controllers.split(","):
            continue
        top = mounted if is_second else mounted / "cpu"
        group = PurePosixPath(path)
        # A container may see its own group as the topmost, by whatever path the line names it.
        for each in (group, *group.parents):
            folder = top / each.relative_to("/")
            names = ("cpu.max",) if is_second else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            words = [word for name in names for word in _read(folder / name).split()]
            if len(words) == 2 and words[0] not in {"max", "-1"}:
                yield int(words[0]) / int(words[1])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
