"""How many processes and threads there are, by the cores that are ours."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from twinlens.models.cores import n_cores

NO_FILES = Path("/nowhere")
# What a process is told of its groups, and the files of a quota, as systems have them.
SECOND = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}
SECOND_NESTED = {
    "proc/self/cgroup": "0::/user.slice/ours.scope\n",
    "sys/fs/cgroup/user.slice/cpu.max": "200000 100000\n",
    "sys/fs/cgroup/user.slice/ours.scope/cpu.max": "max 100000\n",
}
FIRST = {
    "proc/self/cgroup": "4:memory:/docker/ours\n3:cpu,cpuacct:/docker/ours\n0::/docker/ours\n",
    # Seen from inside, a container's group is the topmost.
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
}
FIRST_WITHOUT = {
    "proc/self/cgroup": "1:cpu:/\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
}
SECOND_WITHOUT = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}
LESS_THAN_ONE = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "5000 100000\n"}


def test_the_cores_that_we_may_use_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 5}, raising=False)
    assert n_cores(NO_FILES) == 3


@pytest.mark.parametrize(("n_there", "expected"), [(8, 8), (None, 1)])
def test_where_that_cannot_be_asked_all_are(
    monkeypatch: pytest.MonkeyPatch, n_there: int | None, expected: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: n_there)
    assert n_cores(NO_FILES) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (SECOND, 2),
        (SECOND_NESTED, 2),
        (FIRST, 3),
        (FIRST_WITHOUT, 8),
        (SECOND_WITHOUT, 8),
        (LESS_THAN_ONE, 1),
    ],
    ids=["v2", "v2-above", "v1", "v1-without", "v2-without", "less-than-one"],
)
def test_a_containers_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert n_cores(tmp_path) == expected


def test_a_process_in_a_real_group_knows_its_quota() -> None:
    """Where this process may make one: as root, with the controller `cpu` of either version."""
    first = Path("/sys/fs/cgroup/cpu")
    group = (first if first.is_dir() else first.parent) / f"twinlens-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    # The shell enters the group, and becomes the interpreter.
    enter = f'echo $$ > {group}/cgroup.procs && exec "$0" "$@"'
    count = "from twinlens.models.cores import n_cores; print(n_cores())"
    try:
        quota = group / ("cpu.cfs_quota_us" if first.is_dir() else "cpu.max")
        if not quota.exists():
            pytest.skip("groups have no quota here")
        quota.write_text("100000")
        counted = subprocess.run(
            ["sh", "-c", enter, sys.executable, "-P", "-c", count],
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert counted.stdout == b"1\n"
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()
