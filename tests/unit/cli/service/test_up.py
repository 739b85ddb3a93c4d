"""What `twinlens up` keeps of its parts, and what it refuses before any of them is begun."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from support.servers import free_port, needs_standalone, wait_until

from twinlens.cli.errors import CommandRefused
from twinlens.cli.service import standalone, up
from twinlens.cli.service.up import run_up
from twinlens.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from twinlens.cli.service.up import MilvusKind

pytestmark = pytest.mark.timeout(100)


def noted(data_dir: Path) -> dict[str, Any]:
    try:
        services: dict[str, Any] = json.loads((data_dir / "services.json").read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return services


def begin(data_dir: Path, milvus: MilvusKind = "lite", **settings: Any) -> dict[str, Any]:
    """Runs `up` until its first part is started, and returns what was noted by then."""
    services: dict[str, Any] = {}

    def look() -> None:
        # Once there are pids, a signal is the supervisor's.
        with contextlib.suppress(AssertionError):
            wait_until(lambda: bool(noted(data_dir).get("pids")), 60)
        services.update(noted(data_dir))
        os.kill(os.getpid(), signal.SIGTERM)

    # One that runs is not started.
    kind = None if "milvus_uri" in settings else milvus
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    thread = threading.Thread(target=look)
    thread.start()
    try:
        run_up(Settings(data_dir=data_dir, **{"port": free_port(), **settings}), 1, kind)
    finally:
        thread.join()
        signal.signal(signal.SIGTERM, before)
    return services


def test_where_everything_is_is_noted_and_in_the_end_nobody(tmp_path: Path) -> None:
    port = free_port()
    services = begin(tmp_path, port=port)
    assert services["url"] == f"http://127.0.0.1:{port}"
    sockets = tmp_path / "sockets"
    assert services["redis_url"] == f"unix://{sockets}/valkey?db=0"
    assert services["milvus_uri"] == f"unix:{sockets}/milvus"
    assert services["pids"]["up"] == os.getpid()
    assert not psutil.pid_exists(services["pids"]["valkey"])
    assert noted(tmp_path) == services | {"pids": {}}
    assert not (tmp_path / "services.part").exists()


@needs_standalone
def test_a_part_keeps_its_port_unless_it_is_taken(tmp_path: Path) -> None:
    first = begin(tmp_path, "standalone")["ports"]
    with socket.create_server(("127.0.0.1", first["milvus proxy.port"])):
        second = begin(tmp_path, "standalone")["ports"]
    differing = {name for name, port in first.items() if second[name] != port}
    assert differing == {"milvus proxy.port"}


@needs_standalone
def test_no_two_parts_are_given_one_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, *others = free_ports(len(standalone.PORTS) + 1)
    offered = iter([first, second, second, first, *others])
    monkeypatch.setattr(random, "sample", lambda *_: [next(offered)])
    services = begin(tmp_path, "standalone", port=first)
    assert sorted(services["ports"].values()) == sorted([second, *others])


def free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]


def test_where_nothing_can_be_noted_parts_run_and_are_noted_later(tmp_path: Path) -> None:
    obstacle = tmp_path / "services.part"
    obstacle.mkdir()

    def take_away() -> None:
        wait_until((tmp_path / "sockets" / "valkey").exists, 60)
        obstacle.rmdir()

    thread = threading.Thread(target=take_away)
    thread.start()
    services = begin(tmp_path)
    thread.join()
    assert "valkey" in services["pids"]


@pytest.mark.parametrize("text", ["", '{"ports": {"valk', "[]"])
def test_a_broken_note_is_no_obstacle(tmp_path: Path, text: str) -> None:
    (tmp_path / "services.json").write_text(text)
    refused = pytest.raises(CommandRefused, match="--milvus standalone")
    (tmp_path / "milvus-standalone").mkdir()
    with refused:
        run_up(Settings(data_dir=tmp_path, port=0), 1)


def test_servers_that_run_already_are_not_started(tmp_path: Path) -> None:
    # Nobody answers there, so that the workers are begun, and wait.
    given = {"redis_url": "redis://127.0.0.1:9/0", "milvus_uri": "http://127.0.0.1:9"}
    services = begin(tmp_path, "lite", **given)
    assert {name: services[name] for name in given} == given
    assert "valkey" not in services["pids"]
    assert "ports" not in services
    assert not (tmp_path / "redis").exists()


# Who has the data directory.


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """The lock of a data directory, and how it is let go. Its vectors are of the real Milvus."""
    (tmp_path / "milvus-standalone").mkdir()
    with (tmp_path / "lock").open("ab") as file:
        # Shared: who does not want it alone would get it.
        fcntl.flock(file, fcntl.LOCK_SH)
        yield lambda: fcntl.flock(file, fcntl.LOCK_UN)


def test_a_data_directory_in_use_is_refused(
    tmp_path: Path, held: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "LOCK_WAIT_S", 0.1)
    with pytest.raises(CommandRefused, match="is in use by another `twinlens up`"):
        run_up(Settings(data_dir=tmp_path, port=0), 1)
    held()
    # It is free again: what is refused now is what comes next.
    for _ in range(2):
        with pytest.raises(CommandRefused, match="--milvus standalone"):
            run_up(Settings(data_dir=tmp_path, port=0), 1)


def test_a_data_directory_that_the_last_run_is_about_to_leave_is_waited_for(
    tmp_path: Path, held: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, waits = time.sleep, list[float]()

    def sleep(wait_s: float) -> None:
        waits.append(wait_s)
        if len(waits) == 3:
            held()
        real(0.001)

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(CommandRefused, match="--milvus standalone"):
        run_up(Settings(data_dir=tmp_path, port=0), 1)
    assert len(waits) == 3
    assert up.LOCK_WAIT_S >= 1


def test_what_cannot_be_a_data_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CommandRefused, match=r"cannot use .*file/data as data directory: Not a"):
        run_up(Settings(data_dir=tmp_path / "file" / "data", port=0), 1)


@pytest.mark.parametrize("name", ["lock", "redis"])
def test_a_data_directory_that_cannot_be_written_is_told(tmp_path: Path, name: str) -> None:
    if name == "lock":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).touch()
    with pytest.raises(CommandRefused, match=f"cannot use {tmp_path} as data directory: "):
        run_up(Settings(data_dir=tmp_path, port=0), 1)


def test_a_data_directory_is_closed_to_others(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    data_dir.chmod(0o755)
    begin(data_dir)
    assert data_dir.stat().st_mode & 0o777 == 0o700


def test_a_folder_for_all_is_no_data_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(CommandRefused, match="for all users of this machine"):
        run_up(Settings(data_dir=tmp_path, port=0), 1)
    assert tmp_path.stat().st_mode & 0o7777 == 0o1777


def test_a_relative_data_directory_is_the_same_for_all_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "milvus-standalone").mkdir(parents=True)
    with pytest.raises(CommandRefused, match=f"the vectors of {tmp_path}/here are in"):
        run_up(Settings(data_dir=Path("here"), port=0), 1)


@pytest.mark.parametrize(
    ("there", "asked"), [("milvus", "standalone"), ("milvus-standalone", "lite")]
)
def test_vectors_of_the_other_milvus_are_not_left_behind(
    tmp_path: Path, there: str, asked: Any
) -> None:
    (tmp_path / there).mkdir()
    with pytest.raises(CommandRefused, match=f"are in {there}, which Milvus {asked} cannot read"):
        run_up(Settings(data_dir=tmp_path, port=0), 1, asked)
