"""`twinlens up` with the real Milvus."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.clients import WAIT, Client
from support.photos import make_photos
from support.requests import counts
from support.servers import needs_standalone, wait_until

from twinlens.cli.errors import CommandRefused
from twinlens.cli.service import standalone
from twinlens.cli.service.background import running_service

STANDALONE = ("--milvus", "standalone", "--workers", "1")


def hits_of(client: Client, photo: bytes) -> list[tuple[str, float]]:
    """Which images a search finds, and their scores; none while Milvus is away."""
    files = {"file": ("query.jpg", photo)}
    answer = client.http.post("/v1/search", files=files, headers=WAIT)
    if not answer.is_success or answer.json()["status"] != "succeeded":
        return []
    return [(hit["image"]["id"], hit["score"]) for hit in answer.json()["result"]["hits"]]


@needs_standalone
@pytest.mark.timeout(240)
def test_the_real_milvus_loses_nothing_by_a_kill_and_leaves_nothing_behind(
    tmp_path: Path, data_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photos = make_photos(tmp_path / "photos", 4, seed=600)
    query = photos[0].read_bytes()

    def noted(name: str) -> Any:
        return json.loads((tmp_path / "data/services.json").read_text(encoding="utf-8"))[name]

    with (
        running_service(data_dir, 0, *STANDALONE) as service,
        Client(service.url) as client,
    ):
        job = client.index(photos)
        assert counts(job) == {"total": 4, "succeeded": 4, "skipped": 0, "failed": 0}
        wait_until(lambda: len(hits_of(client, query)) == 4, 60)
        before = hits_of(client, query)

        killed = noted("pids")["milvus"]
        assert psutil.Process(killed).cmdline()[1:] == ["run", "standalone"]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: noted("pids").get("milvus", killed) != killed, 60)
        wait_until(lambda: hits_of(client, query) == before, 60)

        processes = psutil.Process(service.process.pid).children(recursive=True)
    _, left = psutil.wait_procs(processes, timeout=5)
    assert left == []

    ports = noted("ports")
    assert len(set(ports.values())) == len(ports)
    [warning] = [line for line in capfd.readouterr().err.splitlines() if "firewall" in line]
    assert all(str(ports[f"milvus {name}"]) in warning for name in standalone.OPEN_PORTS)

    refused = up(tmp_path / "data")
    assert refused.returncode == 2
    assert "--milvus standalone" in refused.stderr


def test_pictures_are_not_served_without_their_vectors(tmp_path: Path) -> None:
    (tmp_path / "milvus").mkdir()
    refused = up(tmp_path, "--milvus", "standalone")
    assert refused.returncode == 2
    assert "--milvus lite" in refused.stderr
    assert not (tmp_path / "milvus-standalone").exists()


def test_where_it_is_not_installed_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "milvus", None)
    with pytest.raises(CommandRefused, match=r"twinlens\[standalone\]"):
        standalone.unpack_programs()


def test_one_milvus_is_asked_for_at_a_time(tmp_path: Path) -> None:
    both = up(tmp_path, "--milvus", "lite", "--milvus-uri", "http://127.0.0.1:1")
    assert both.returncode == 2
    assert "either" in both.stderr


def up(data_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "twinlens.cli.main", "up", "--port", "0"]
    command += ["--data-dir", str(data_dir), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
