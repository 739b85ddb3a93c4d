"""What runs is kept running, in order, and in the end nothing is left."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
from support.servers import wait_until
from support.supervised import STAY, Scene, at_once, is_locked, shell, stop, supervisor_alone

from twinlens.cli.errors import CommandFailed
from twinlens.cli.service import supervisor
from twinlens.cli.service.guard import Guard, kill_group
from twinlens.cli.service.supervisor import STOP_SIGNALS

# A supervisor that does not end is stopped long before a test may take what others may.
pytestmark = pytest.mark.timeout(120)

POLITE = 'trap "echo $NAME >> order; exit" TERM INT HUP'
SLOW = 'trap "sleep 0.3; echo $NAME >> order; exit" TERM INT HUP'
WRITER = "while test -e $NAME.up; do echo second line; sleep 0.01; done"
DEAF = "trap '' TERM INT HUP"


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(supervisor, "TICK_S", 0.005)
    return Scene(tmp_path)


class Clock:
    """Stands still, and is moved when the supervisor has waited for some ticks."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self.now = 1000.0
        self.on_tick: Callable[[], object] = lambda: None
        self._sleep = sleep

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _: float) -> None:
        self._sleep(0.001)
        self.on_tick()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(time.sleep)
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    return clock


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def at(heard: str, act: Callable[[], None]) -> Callable[[str], None]:
    """Returns what acts at each line that begins so."""

    def hear(line: str) -> None:
        if line.startswith(heard):
            act()

    return hear


def guards(pid: int) -> list[psutil.Process]:
    processes = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.ZombieProcess):
            if "twinlens.cli.service.guard" in child.cmdline():
                processes.append(child)
    return processes


# The start.


def test_a_step_begins_when_the_one_before_is_ready(scene: Scene) -> None:
    n_asked = 0

    def is_ready() -> bool:
        nonlocal n_asked
        n_asked += 1
        if n_asked == 5:
            scene.said.append("a is ready")
        return n_asked >= 5

    first = [at_once(scene.folder, "a", is_ready=is_ready), shell(scene.folder, "b")]
    scene.run(first, [shell(scene.folder, "c")], [shell(scene.folder, "d")])
    assert scene.said[:6] == [
        "a started",
        "b started",
        "a is ready",
        "c started",
        "d started",
        "ready",
    ]
    assert scene.said.count("ready") == 1


def test_a_part_has_its_environment_its_log_and_no_input(tmp_path: Path) -> None:
    script = f"cat; echo $NAME; echo wrong >&2; {STAY}"
    with supervisor_alone(tmp_path, part=script) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert lines(tmp_path / "part.log") == ["part", "wrong"]


def test_a_ctrl_c_of_the_terminal_reaches_nobody_else(scene: Scene) -> None:
    leads_a_session: list[bool] = []

    def on_ready() -> None:
        [guard] = guards(os.getpid())
        pids = [*scene.pids[-1].values(), guard.pid]
        leads_a_session.extend(os.getsid(pid) == pid for pid in pids)
        stop()

    scene.run([shell(scene.folder, "a"), shell(scene.folder, "b")], on_ready=on_ready)
    assert leads_a_session == [True] * 3


def test_a_part_that_dies_at_once_is_given_up_after_five_deaths(scene: Scene, clock: Clock) -> None:
    def hear(line: str) -> None:
        clock.now += 100 * ("again in" in line)

    scene.hear = hear
    failing = at_once(scene.folder, "b", "exit 3", is_ready=lambda: False, start_s=1000)
    with pytest.raises(CommandFailed, match="b ends as soon as it is started; see ") as raised:
        scene.run([shell(scene.folder, "a")], [failing], [shell(scene.folder, "c")])
    assert str(scene.folder / "b.log") in raised.value.message
    assert [line.partition(";")[0] for line in scene.said].count("b ended with status 3") == 5
    assert "ready" not in scene.said
    assert "c started" not in scene.said
    assert scene.pids[-1] == {}
    assert scene.running() == []


def test_a_part_that_is_not_ready_in_time_is_given_up(scene: Scene) -> None:
    late = at_once(scene.folder, "b", is_ready=lambda: False, start_s=0.2)
    quick = shell(scene.folder, "c")
    with pytest.raises(CommandFailed, match=r"b is not ready after 0\.2 s; see ") as raised:
        scene.run([shell(scene.folder, "a")], [quick, late])
    assert str(scene.folder) in raised.value.message
    assert scene.pids[-1] == {}


def test_a_part_has_the_time_for_its_start_that_it_is_given(scene: Scene, clock: Clock) -> None:
    began = clock.now

    def is_ready() -> bool:
        clock.now += 10
        return clock.now - began > 280

    scene.run([at_once(scene.folder, "a", is_ready=is_ready, start_s=300)])
    assert scene.said[:2] == ["a started", "ready"]


def test_what_died_is_started_again_while_the_next_step_is_waited_for(scene: Scene) -> None:
    script = "test -e again && sleep 60; touch again; exit 3"
    is_back = lambda: scene.said.count("a started") == 2  # noqa: E731
    second = at_once(scene.folder, "b", is_ready=is_back)
    scene.run([at_once(scene.folder, "a", script)], [second])
    assert "a ended with status 3; again in 0.2 s" in scene.said
    assert scene.said.count("b started") == 1


@pytest.mark.parametrize("heard", ["a started", "b started"])
def test_who_stops_during_the_start_is_obeyed(scene: Scene, heard: str) -> None:
    scene.hear = at(heard, stop)
    never = at_once(scene.folder, "b", is_ready=lambda: False)
    scene.run([shell(scene.folder, "a"), never], [shell(scene.folder, "c")])
    started = [line for line in scene.said if line.endswith("started")]
    assert started == ["a started", "b started"][: 1 + (heard == "b started")]
    assert "ready" not in scene.said
    assert scene.pids[-1] == {}


# Deaths.


def waits_of(scene: Scene, clock: Clock, n_deaths: int, lived_s: dict[int, float]) -> list[float]:
    """Lets a part die again and again, and returns how long each next start was put off.

    Args:
        scene: Where.
        clock: Moved by each of the waits.
        n_deaths: How many are looked at.
        lived_s: How long some lives take, by their number; all others no time.
    """
    waits: list[float] = []
    story: list[str] = []
    ticks = 0

    def hear(line: str) -> None:
        nonlocal ticks
        if line == "a started":
            story.append("started")
            clock.now += lived_s.get(story.count("started"), 0)
        elif "again in" in line:
            waits.append(float(line.split()[-2]))
            story.append("ended")
            ticks = 0
            if len(waits) == n_deaths:
                stop()

    def on_tick() -> None:
        nonlocal ticks
        ticks += 1
        if story[-1] == "ended" and ticks == 5:
            story.append("waited")
            clock.now += waits[-1]

    scene.hear, clock.on_tick = hear, on_tick
    scene.run([at_once(scene.folder, "a", "exit 3")], on_ready=lambda: None)
    assert story == ["started", *["ended", "waited", "started"] * (n_deaths - 1), "ended"]
    return waits


def test_each_death_doubles_the_wait_and_it_has_a_bound(scene: Scene, clock: Clock) -> None:
    assert waits_of(scene, clock, 8, {}) == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]


@pytest.mark.parametrize(("lived_s", "then"), [(31, [0.2, 0.4]), (5, [1.6, 3.2])])
def test_who_lived_for_long_is_back_soon(
    scene: Scene, clock: Clock, lived_s: float, then: list[float]
) -> None:
    assert waits_of(scene, clock, 5, {4: lived_s}) == [0.2, 0.4, 0.8, *then]


def test_a_death_is_told_with_its_reason_and_each_change_with_the_pids(scene: Scene) -> None:
    def hear(line: str) -> None:
        if scene.said.count("a started") == 2 and line == "a started":
            stop()

    scene.hear = hear
    parts = [at_once(scene.folder, "a", "kill -9 $$"), shell(scene.folder, "b")]
    scene.run(parts, on_ready=lambda: None)
    assert "a was ended by SIGKILL; again in 0.2 s" in scene.said
    a, b = scene.pids[0]["a"], scene.pids[1]["b"]
    again = next(pids["a"] for pids in scene.pids[2:] if "a" in pids)
    assert again != a
    assert scene.pids[:4] == [{"a": a}, {"a": a, "b": b}, {"b": b}, {"a": again, "b": b}]
    assert scene.pids[-1] == {}


def test_what_a_dead_part_left_behind_is_killed(scene: Scene) -> None:
    left: list[psutil.Process] = []

    def hear(line: str) -> None:
        if "again in" in line:
            left.append(psutil.Process(int(lines(scene.folder / "left")[0])))
            stop()

    scene.hear = hear
    script = "sleep 60 & echo $! > left.part; mv left.part left; exit 3"
    scene.run([at_once(scene.folder, "a", script)], on_ready=lambda: None)
    gone, alive = psutil.wait_procs(left, timeout=20)
    assert (len(gone), alive) == (1, [])


# Logs.


@pytest.mark.parametrize(("n_bytes", "is_rotated"), [(101, True), (96, False)])
def test_a_long_log_is_kept_beside_the_new(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, n_bytes: int, is_rotated: bool
) -> None:
    monkeypatch.setattr(supervisor, "MAX_LOG_BYTES", 100)
    log = scene.folder / "a.log"
    old = "x" * (n_bytes - 1) + "\n"
    log.write_text(old)
    scene.run([shell(scene.folder, "a", f"echo new; {STAY}")])
    older = scene.folder / "a.log.1"
    if is_rotated:
        assert (older.read_text(), log.read_text()) == (old, "new\n")
    else:
        assert (older.exists(), log.read_text()) == (False, f"{old}new\n")


def test_a_log_stays_short_while_it_is_written(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "MAX_LOG_BYTES", 100)
    older = scene.folder / "a.log.1"
    script = f"for n in 1 2 3 4 5 6 7 8 9; do echo first line $n; done; touch $NAME.up; {WRITER}"
    writer = shell(scene.folder, "a", script, is_ready=older.exists)
    second = at_once(scene.folder, "b", is_ready=lambda: older.read_text().startswith("s"))
    scene.run([writer], [second])
    # Nobody writes behind what was taken away.
    assert b"\0" not in (scene.folder / "a.log").read_bytes() + older.read_bytes()


# No room.


def test_where_nothing_can_be_noted_all_goes_on_and_it_is_noted_later(scene: Scene) -> None:
    n_failed = 0

    def note(pids: dict[str, int]) -> None:
        nonlocal n_failed
        n_failed += 1
        if n_failed < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        scene.pids.append(pids)

    scene.note = note
    scene.run(
        [shell(scene.folder, "a")],
        [at_once(scene.folder, "b", is_ready=lambda: bool(scene.pids))],
    )
    told = "which processes run cannot be noted yet: No space left on device"
    assert scene.said.count(told) == 1
    assert set(scene.pids[0]) == {"a", "b"}
    assert scene.pids[-1] == {}


def test_a_part_without_a_log_runs(scene: Scene) -> None:
    log = scene.folder / "a.log"
    log.mkdir()
    scene.run([shell(scene.folder, "a", f"echo lost; {STAY}")])
    assert scene.said[:3] == [f"a has no log: {log}: Is a directory", "a started", "ready"]


def test_what_cannot_be_started_is_tried_again(scene: Scene) -> None:
    program = scene.folder / "program"

    def hear(line: str) -> None:
        if len(scene.said) == 2:
            program.symlink_to("/bin/sh")

    scene.hear = hear
    part = replace(shell(scene.folder, "a"), command=[str(program), "-c", "sleep 60"])
    scene.run([replace(part, is_ready=lambda: "a started" in scene.said)])
    failed = "a cannot be started: No such file or directory; again in "
    assert scene.said[:4] == [f"{failed}0.2 s", f"{failed}0.4 s", "a started", "ready"]


# The end.


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_steps_end_one_after_another_in_the_opposite_order(
    scene: Scene, number: signal.Signals
) -> None:
    handlers = [signal.getsignal(each) for each in STOP_SIGNALS]
    # The last is slow: who were told with it would be quicker.
    steps = [[shell(scene.folder, "a", f"{POLITE}; {STAY}")]]
    steps += [[shell(scene.folder, name, f"{SLOW}; {STAY}")] for name in "bc"]
    scene.run(*steps, on_ready=lambda: stop(number))
    assert lines(scene.folder / "order") == ["c", "b", "a"]
    assert scene.said[-1].startswith("stopping; ")
    assert scene.pids[-1] == {}
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == handlers


def test_all_the_usual_signals_stop() -> None:
    assert set(STOP_SIGNALS) == {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def test_each_part_is_sent_the_signal_that_it_wants(scene: Scene) -> None:
    trap = 'trap "echo $NAME INT >> order; exit" INT; trap "echo $NAME TERM >> order; exit" TERM'
    usual = shell(scene.folder, "usual", f"{trap}; {STAY}")
    other = shell(scene.folder, "other", f"{trap}; {STAY}", stop_signal=signal.SIGINT)
    scene.run([usual, other])
    assert sorted(lines(scene.folder / "order")) == ["other INT", "usual TERM"]


def is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def test_what_takes_too_long_is_killed_with_its_group(scene: Scene) -> None:
    running: list[psutil.Process] = []

    def are_all_there() -> bool:
        # Two shells, their sleeps, and the guard; `touch` may not have ended yet.
        running[:] = [one for one in scene.running() if is_alive(one)]
        return len(running) == 5

    def on_ready() -> None:
        wait_until(are_all_there, 20)
        stop()

    deaf = shell(scene.folder, "deaf", f"{DEAF}; {STAY}", grace_s=0.1)
    patient = shell(scene.folder, "patient", f"{SLOW}; {STAY}", grace_s=40)
    scene.run([deaf, patient], on_ready=on_ready)
    _, alive = psutil.wait_procs(running, timeout=20)
    assert alive == []
    assert lines(scene.folder / "order") == ["patient"]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_kills_at_once(scene: Scene, first: signal.Signals) -> None:
    scene.hear = at("stopping", partial(stop, signal.SIGINT))
    steps = [[shell(scene.folder, name, f"{DEAF}; {STAY}", grace_s=1000)] for name in "ab"]
    scene.run(*steps, on_ready=lambda: stop(first))
    assert scene.pids[-1] == {}
    assert scene.running() == []


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_another_signal_than_ctrl_c_kills_nothing(scene: Scene, first: signal.Signals) -> None:
    scene.hear = at("stopping", partial(stop, signal.SIGTERM))
    slow = shell(scene.folder, "a", f"{SLOW}; {STAY}", grace_s=1000)
    scene.run([slow], on_ready=lambda: stop(first))
    assert lines(scene.folder / "order") == ["a"]
    assert len([line for line in scene.said if line.startswith("stopping")]) == 1


def test_nothing_is_started_again_once_a_signal_has_come(scene: Scene, clock: Clock) -> None:
    # In one tick `a` is found dead, a signal comes, and `b`, which was found dead before, is due.
    def hear(line: str) -> None:
        clock.now += 100
        if line.startswith("b ended"):
            process = psutil.Process(scene.pids[-1]["a"])
            process.kill()
            wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE, 30)
        elif line.startswith("a was ended"):
            stop()

    scene.hear = hear
    parts = [at_once(scene.folder, "a"), at_once(scene.folder, "b", "exit 3")]
    scene.run(parts, on_ready=lambda: None)
    stopped = next(n for n, line in enumerate(scene.said) if line.startswith("stopping"))
    assert not [line for line in scene.said[stopped:] if line.endswith("started")]


def test_handlers_are_put_back_after_a_failure(scene: Scene) -> None:
    handlers = [signal.getsignal(each) for each in STOP_SIGNALS]
    never = at_once(scene.folder, "a", is_ready=lambda: False, start_s=0)
    with pytest.raises(CommandFailed):
        scene.run([never])
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == handlers
    assert not is_locked(scene.folder / "lock")


# The guard.


def test_what_a_killed_supervisor_ran_is_killed_and_then_the_lock_is_free(tmp_path: Path) -> None:
    with supervisor_alone(tmp_path, a=f"{DEAF}; {STAY}", b=STAY) as (process, pids):
        [guard] = guards(process.pid)
        running = psutil.Process(process.pid).children(recursive=True)
        assert len(running) == 5
        assert set(pids) == {"a", "b"}
        guard.suspend()
        try:
            process.kill()
            process.wait(20)
            # Nobody may write there while the parts still live.
            assert is_locked(tmp_path / "lock")
        finally:
            guard.resume()
        wait_until(lambda: not is_locked(tmp_path / "lock"), 20)
        _, alive = psutil.wait_procs(running, timeout=20)
        assert alive == []


def test_a_dead_guard_is_replaced(tmp_path: Path) -> None:
    with supervisor_alone(tmp_path, a=STAY) as (process, _):
        [guard] = guards(process.pid)
        guard.kill()
        wait_until(lambda: guards(process.pid) not in ([], [guard]), 20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.fixture
def parts() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two shells, each with a process in its group."""
    command = ["sh", "-c", "sleep 60 & wait"]
    with ExitStack() as stack:
        begun = [
            stack.enter_context(subprocess.Popen(command, start_new_session=True)) for _ in range(2)
        ]
        try:
            wait_until(lambda: all(psutil.Process(one.pid).children() for one in begun), 20)
            yield begun
        finally:
            for one in begun:
                kill_group(one.pid)


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with (tmp_path / "lock").open("ab") as lock:
        guard = Guard(lock.fileno())
        yield guard
        guard.close()


def test_the_guard_kills_whole_groups_of_those_named_last(
    guard: Guard, parts: list[subprocess.Popen[bytes]]
) -> None:
    below = psutil.Process(parts[1].pid).children()
    guard.watch(one.pid for one in parts)
    guard.watch([parts[1].pid])
    guard.close()
    assert parts[1].wait(20) == -signal.SIGKILL
    assert psutil.wait_procs(below, timeout=20)[1] == []
    assert parts[0].poll() is None


def test_a_guard_that_comes_after_another_knows_what_that_knew(
    guard: Guard, parts: list[subprocess.Popen[bytes]]
) -> None:
    guard.watch([parts[0].pid])
    [first] = guards(os.getpid())
    first.kill()
    wait_until(lambda: first.status() == psutil.STATUS_ZOMBIE, 20)
    guard.watch([parts[1].pid])  # to nobody
    guard.check()
    guard.check()
    [second] = guards(os.getpid())
    assert second != first
    guard.close()
    assert parts[1].wait(20) == -signal.SIGKILL
    assert parts[0].poll() is None


def test_a_line_that_a_killed_supervisor_did_not_end_is_not_believed(
    parts: list[subprocess.Popen[bytes]],
) -> None:
    said = f"{parts[0].pid}\n{parts[1].pid}"
    command = [sys.executable, "-P", "-m", "twinlens.cli.service.guard"]
    subprocess.run(command, input=said, text=True, check=True, timeout=40)
    assert parts[0].wait(20) == -signal.SIGKILL
    assert parts[1].poll() is None


def test_a_group_that_is_gone_is_no_error(
    guard: Guard, parts: list[subprocess.Popen[bytes]]
) -> None:
    parts[0].kill()
    wait_until(lambda: psutil.Process(parts[0].pid).status() == psutil.STATUS_ZOMBIE, 20)
    kill_group(parts[0].pid)
    parts[0].wait(20)
    guard.watch([parts[0].pid, parts[1].pid])
    guard.close()
    assert parts[1].wait(20) == -signal.SIGKILL
