"""`twinlens up` as an operator meets it: refusals, deaths, ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from support.clients import WAIT, Client
from support.photos import jpeg, make_photos, source
from support.servers import running_milvus, running_valkey, wait_until

from twinlens.cli.service.background import Running, running_service

PARTS = ("valkey", "milvus", "worker-search", "worker-bulk", "api")


def twinlens(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "twinlens.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("twinlens: ")
    for word in words:
        assert word in line


def data_dir_of(service: Running) -> Path:
    command = psutil.Process(service.process.pid).cmdline()
    return Path(command[command.index("--data-dir") + 1])


def pid_of(service: Running, name: str) -> int:
    """Process id of a part as `up` notes it; 0 while there is none."""
    noted = json.loads((data_dir_of(service) / "services.json").read_text(encoding="utf-8"))
    return int(noted["pids"].get(name, 0))


def own_address() -> str:
    """Returns an address of this machine by which others would reach it, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of no machine; nothing is sent
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (f"GET /{'x' * 5000} HTTP/1.1", 414),
        (f"GET / HTTP/1.1\r\nX-Long: {'x' * 10_000}", 431),
        ("GET / HTTP/1.1\r\nbad header", 400),
    ],
    ids=["line", "header", "broken"],
)
def test_what_is_no_request_is_answered_with_a_problem(
    service: Running, request_text: str, status: int
) -> None:
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(f"{request_text}\r\nHost: localhost\r\n\r\n".encode())
        answer = HTTPResponse(connection)
        answer.begin()
        problem = json.loads(answer.read())
    assert (answer.status, problem["status"], problem["type"]) == (status, status, "about:blank")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Request-ID"] == problem["request_id"]


@pytest.mark.parametrize("path", ["/v1/images", "/v1/images/bulk"])
def test_broken_chunks_are_the_fault_of_who_sent_them(service: Running, path: str) -> None:
    address = urlsplit(service.url)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    head += f"Content-Type: {'image/png' if path.endswith('images') else 'application/zip'}\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(f"{head}\r\nzz\r\nabc\r\n0\r\n\r\n".encode())
        answer = HTTPResponse(connection)
        answer.begin()
        problem = json.loads(answer.read())
    assert (answer.status, problem["type"]) == (400, "urn:twinlens:problem:bad-request")


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = twinlens("up", "--data-dir", str(tmp_path), "--port", str(port))
    assert_refused(done, str(port), "in use", "--port")
    assert list(tmp_path.iterdir()) == []


def test_a_data_directory_in_use_is_refused(service: Running) -> None:
    data_dir = str(data_dir_of(service))
    assert_refused(twinlens("up", "--data-dir", data_dir, "--port", "0"), data_dir, "in use")


def test_other_addresses_than_loopback_are_refused(tmp_path: Path) -> None:
    done = twinlens("up", "--host", "0.0.0.0", "--data-dir", str(tmp_path))
    assert_refused(done, "twinlens keys create", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_with_a_key_other_machines_are_served(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_key(*options: str) -> str:
        return twinlens("keys", "create", "--data-dir", str(data_dir), *options).stdout.strip()

    first, reader = make_key("--scope", "admin"), make_key()
    [photo] = make_photos(tmp_path / "photos", 1, seed=31)
    words = ("--workers", "1", "--host", "0.0.0.0")
    with running_service(data_dir, 0, *words) as running:
        url = f"http://{own_address()}:{urlsplit(running.url).port}"
        assert httpx.get(f"{url}/readyz").status_code == 200
        index = ("index", str(photo), "--url", url)
        refused = twinlens(*index)
        assert (refused.returncode, "TWINLENS_KEY" in refused.stderr) == (1, True)
        monkeypatch.setenv("TWINLENS_KEY", reader)
        refused = twinlens(*index)
        assert (refused.returncode, "the scope write" in refused.stderr) == (1, True)
        monkeypatch.setenv("TWINLENS_KEY", first)
        done = twinlens(*index)
        assert done.returncode == 0, done.stderr
        monkeypatch.setenv("TWINLENS_KEY", reader)
        done = twinlens("search", str(photo), "--url", url)
        assert photo.name in done.stdout, done.stderr
        twinlens("keys", "revoke", reader.split("_")[1], "--data-dir", str(data_dir))
        assert "is revoked" in twinlens("stats", "--url", url).stderr
    logs = "".join(path.read_text(errors="replace") for path in (data_dir / "logs").iterdir())
    assert [key for key in (first, reader) if key.rpartition("_")[2] in logs] == []


def test_a_bad_setting_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TWINLENS_CHUNK_ITEMS", "none")
    assert_refused(twinlens("up", "--data-dir", str(tmp_path)), "TWINLENS_CHUNK_ITEMS")


def test_a_proxy_of_the_environment_is_passed_by(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
        for variable in (name, name.upper()):
            monkeypatch.setenv(variable, "http://127.0.0.1:9")
    [photo] = make_photos(tmp_path / "photos", 1, seed=9)
    with running_service(data_dir, 0, "--workers", "1") as running:
        indexed = twinlens("index", str(photo), "--url", running.url)
        assert indexed.returncode == 0, indexed.stderr
        done = twinlens("search", str(photo), "--url", running.url)
        assert photo.name in done.stdout, done.stderr


def test_nobody_else_reads_what_the_service_keeps(service: Running, client: Client) -> None:
    client.add("mine.jpg", jpeg(source("rocket.jpg").resize((301, 202))))
    data_dir = data_dir_of(service)
    # Models are no secret, and may be added by another user than the worker's.
    models = data_dir / "models"
    kept = [one for one in (data_dir, *data_dir.rglob("*")) if models not in (one, *one.parents)]
    assert {one.name for one in kept} >= {"services.json", "blobs", "worker-bulk.log", "valkey"}
    assert [one for one in kept if one.stat().st_mode & 0o077] == []


@pytest.mark.parametrize("name", PARTS)
def test_a_killed_part_comes_back_and_nothing_is_lost(
    service: Running, client: Client, name: str
) -> None:
    photo = jpeg(source("rocket.jpg").resize((300 + PARTS.index(name), 200)))
    image = client.add(f"{name}.jpg", photo)["result"]
    killed = pid_of(service, name)
    os.kill(killed, signal.SIGKILL)

    def is_back() -> bool:
        return pid_of(service, name) not in (0, killed) and is_ready(service.url)

    wait_until(is_back, 60)

    def is_found() -> bool:
        files = {"file": ("query.jpg", photo)}
        answer = client.http.post("/v1/search", files=files, headers=WAIT)
        if answer.status_code != 200 or answer.json()["status"] != "succeeded":
            return False
        return bool(answer.json()["result"]["hits"][0]["image"]["id"] == image["id"])

    # What was begun with the old part may fail once; then it works as before.
    wait_until(is_found, 30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_in_the_end_and_all_is_there_the_next_time(
    tmp_path: Path,
    data_dir: Path,
    number: signal.Signals,
    capfd: pytest.CaptureFixture[str],
) -> None:
    [photo] = make_photos(tmp_path / "photos", 1, seed=int(number))
    with running_service(data_dir, 0, "--workers", "1") as service:
        with Client(service.url) as client:
            image = client.add("kept.jpg", photo.read_bytes())["result"]
        processes = psutil.Process(service.process.pid).children(recursive=True)
        assert len(processes) >= len(PARTS)
        service.process.send_signal(number)
        status = service.process.wait(40)
        assert status == (-signal.SIGKILL if number == signal.SIGKILL else 0)
        _, left = psutil.wait_procs(processes, timeout=5)
        assert left == []
    said = [line.split()[1:] for line in capfd.readouterr().err.splitlines()]
    assert tuple(words[0] for words in said if words[1:2] == ["started"]) == PARTS
    with (
        running_service(data_dir, 0, "--workers", "1") as service,
        Client(service.url) as client,
    ):
        hits = client.search(photo.read_bytes())["result"]["hits"]
    assert hits[0]["image"]["id"] == image["id"]


def test_work_is_refused_at_once_while_an_outside_server_is_down(
    tmp_path: Path, data_dir: Path
) -> None:
    photo = {"file": ("a.jpg", jpeg(source("rocket.jpg")))}
    with ExitStack() as valkey, ExitStack() as milvus, ExitStack() as services:
        redis_url = valkey.enter_context(running_valkey(tmp_path))
        milvus_uri = milvus.enter_context(running_milvus(tmp_path))
        options = ("--redis-url", redis_url, "--milvus-uri", milvus_uri, "--workers", "1")
        service = services.enter_context(running_service(data_dir, 0, *options))
        children = psutil.Process(service.process.pid).children()
        assert not any("valkey" in child.name() for child in children)

        def refused(path: str) -> int:
            began = time.monotonic()
            answer = httpx.post(service.url + path, files=photo, headers=WAIT, timeout=30)
            assert time.monotonic() - began < 5, "it hung"
            assert answer.headers.get("Retry-After"), answer.text
            return answer.status_code

        milvus.close()
        assert [refused("/v1/images"), refused("/v1/search")] == [503, 503]
        assert not is_ready(service.url)
        valkey.close()
        assert [refused("/v1/images"), refused("/v1/search")] == [503, 503]
        assert httpx.get(f"{service.url}/livez").status_code == 200
