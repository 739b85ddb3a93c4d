"""Workers join from outside and leave again; uploads are followed, and listed files fetched."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clients import Client
from support.photos import make_photos
from support.requests import counts
from support.servers import wait_until

from twinlens.cli.service.background import running_service
from twinlens.shared.redis import keys
from twinlens.shared.redis.client import connect


def noted(data_dir: Path) -> dict[str, Any]:
    """Returns what a service notes of its parts."""
    services: dict[str, Any] = json.loads((data_dir / "services.json").read_text())
    return services


@contextlib.contextmanager
def joined_worker(data_dir: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """A bulk worker as it would join from another machine: by the addresses alone."""
    settings |= {name: noted(data_dir)[name] for name in ("redis_url", "milvus_uri")}
    settings["data_dir"] = str(data_dir)
    env = {f"TWINLENS_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-P", "-m", "twinlens.cli.main"]
    command += ["worker", "--lanes", "bulk", "--processes", "1"]
    with subprocess.Popen(
        command, env={**os.environ, **env}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def pictures_of(client: Client) -> dict[str, int]:
    """Returns how many pictures each bulk process has embedded."""
    workers = client.get("/v1/stats")["workers"]
    return {one["name"]: one["n_pictures"] for one in workers if "bulk" in one["lanes"]}


def test_a_worker_joins_takes_its_share_and_leaves_without_loss(
    tmp_path: Path, data_dir: Path
) -> None:
    photos = make_photos(tmp_path / "photos", 400, seed=700)
    with (
        running_service(data_dir, 0, "--workers", "1") as service,
        Client(service.url) as client,
    ):
        [first] = pictures_of(client)
        with joined_worker(data_dir) as process:
            wait_until(lambda: len(pictures_of(client)) == 2, 120)
            job = client.index(photos, wait=False)
            [joined] = pictures_of(client).keys() - {first}
            wait_until(lambda: pictures_of(client)[joined] > 0, 120)
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        ended = client.ended(job)
        assert counts(ended) == {"total": 400, "succeeded": 400, "skipped": 0, "failed": 0}
        assert pictures_of(client)[first] < 400


def test_a_worker_that_leaves_hands_back_what_it_cannot_finish(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINLENS_CHUNK_ITEMS", "256")
    # A chunk that was not handed back would be lost for so long.
    monkeypatch.setenv("TWINLENS_VISIBILITY_TIMEOUT_S", "250")
    photos = make_photos(tmp_path / "photos", 512, seed=701)
    with (
        running_service(data_dir, 0, "--workers", "1") as service,
        Client(service.url) as client,
    ):
        with (
            joined_worker(data_dir, worker_grace_s="1") as process,
            connect(noted(data_dir)["redis_url"]) as redis,
        ):
            wait_until(lambda: len(pictures_of(client)) == 2, 120)
            job = client.index(photos, wait=False)
            wait_until(lambda: redis.hlen(keys.UNACKED) == 2, 120)  # each works on one chunk
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        ended = client.ended(job)
        assert counts(ended) == {"total": 512, "succeeded": 512, "skipped": 0, "failed": 0}


def test_a_job_is_followed_by_its_events(client: Client, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 60, seed=702)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photos[0].read_bytes()[:500])
    job = client.index([*photos, broken], wait=False)
    told: list[tuple[str, Any]] = []
    with client.http.stream("GET", job["links"]["events"]) as answer:
        event = ""
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                event = value
            elif name == "data":
                told.append((event, json.loads(value)))
    assert [data["name"] for event, data in told if event == "item_failed"] == ["broken.jpg"]
    assert told[-1][0] == "done"
    assert told[-1][1] == client.get(job["links"]["self"])
    assert counts(told[-1][1]) == {"total": 61, "succeeded": 60, "skipped": 0, "failed": 1}


def test_listed_files_are_fetched_from_allowed_folders_alone(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_photos(tmp_path / "photos", 40, seed=703)
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(photos[0].read_bytes() + b"!")
    monkeypatch.setenv("TWINLENS_ALLOWED_ROOTS", json.dumps([str(tmp_path / "photos")]))
    lines = [{"uri": path.as_uri(), "metadata": {"number": n}} for n, path in enumerate(photos)] + [
        {"uri": secret.as_uri()},
        {"uri": (tmp_path / "photos/none.jpg").as_uri()},
    ]
    listing = "\n".join(map(json.dumps, lines))
    with (
        running_service(data_dir, 0, "--workers", "1") as service,
        Client(service.url) as client,
    ):
        headers = {"Content-Type": "application/x-ndjson"}
        for expected in ((40, 0), (0, 40)):
            answer = client.http.post("/v1/images/bulk", content=listing, headers=headers)
            job = client.ended(answer.raise_for_status().json())
            assert (job["progress"]["succeeded"], job["progress"]["skipped"]) == expected
            failed = client.items(job, outcome="failed")
            assert [item["error"]["type"].rpartition(":")[2] for item in failed] == [
                "source-refused",
                "source-failed",
            ]
        [item] = [one for one in client.items(job) if one["name"] == photos[7].name]
        assert client.get(f"/v1/images/{item['image_id']}")["metadata"] == {"number": 7}
        result = client.search(photos[7].read_bytes())["result"]
        assert result["hits"][0]["image"]["id"] == item["image_id"]
