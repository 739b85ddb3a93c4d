"""Parts are killed while they work: what was accepted is done all the same."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
from e2e.test_up import pid_of
from support.clients import Client
from support.doors import door_to
from support.photos import make_photos
from support.requests import counts
from support.servers import running_milvus, wait_until

from twinlens.cli.service.background import Running, running_service

N_PICTURES = 500
NETWORKS = ("efficientnet-lite0", "efficientnet-lite2")


def test_a_chunk_that_runs_too_long_is_gone_on_with_picture_by_picture(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINLENS_CHUNK_TIME_LIMIT_S", "5")
    monkeypatch.setenv("TWINLENS_MILVUS_TIMEOUT_S", "120")
    photos = make_photos(tmp_path / "photos", 8, seed=501)
    with running_milvus(tmp_path) as milvus_uri, door_to(milvus_uri) as door:
        options = ("--workers", "1", "--milvus-uri", f"http://127.0.0.1:{door.port}")
        with running_service(data_dir, 0, *options) as slow, Client(slow.url) as client:
            log = data_dir / "logs/worker-bulk.log"
            door.hush()
            job = client.index(photos, wait=False)
            wait_until(lambda: "ran too long" in log.read_text(), 120)
            door.open()
            job = client.ended(job)
            outcomes = [item["outcome"] for item in client.items(job)]
    assert counts(job) == {"total": 8, "succeeded": 8, "skipped": 0, "failed": 0}
    assert outcomes == ["succeeded"] * 8


def bulk_worker(service: Running) -> psutil.Process:
    """The Celery worker of the bulk lane, the parent of its processes."""
    return psutil.Process(pid_of(service, "worker-bulk"))


def test_a_killed_bulk_worker_costs_no_picture(
    service: Running, client: Client, tmp_path: Path
) -> None:
    photos = make_photos(tmp_path / "photos", N_PICTURES, seed=500)
    before = client.get("/v1/stats")["libraries"]["default"]["images"]
    job = client.index(photos, wait=False)
    while client.get(job["links"]["self"])["progress"]["succeeded"] < N_PICTURES // 4:
        client.http.get(job["links"]["self"], headers={"Prefer": "wait=1"})
    bulk_worker(service).kill()

    job = client.ended(job)
    assert job["status"] == "succeeded"
    assert counts(job) == {"total": 500, "succeeded": 500, "skipped": 0, "failed": 0}
    library = client.get("/v1/stats")["libraries"]["default"]
    assert library["images"] == before + N_PICTURES
    assert set(library["vectors"].values()) == {library["images"]}
    assert [item["outcome"] for item in client.items(job)] == ["succeeded"] * N_PICTURES

    names = {item["image_id"]: item["name"] for item in client.items(job)}
    assert len(names) == N_PICTURES
    for path in photos:
        result = client.search(path.read_bytes(), json.dumps({"k": 1}))["result"]
        for model in NETWORKS:
            assert names[result["by_model"][model][0]["image_id"]] == path.name


def test_a_model_is_added_while_a_worker_is_killed_and_searches_go_on(
    service: Running, client: Client, tmp_path: Path
) -> None:
    """Not one search has fewer results, and no picture lacks the model in the end."""
    plan = {"models": ["phash"]}
    client.http.put("/v1/libraries/grows", json=plan).raise_for_status()
    photos = make_photos(tmp_path / "photos", 200, seed=502)
    files = [("files", (path.name, path.read_bytes())) for path in photos[:150]]
    client.ended(client.http.post("/v1/images/bulk?library=grows", files=files).json())

    plan["models"].append("efficientnet-lite0@1-int8")
    job = client.http.put("/v1/libraries/grows", json=plan).raise_for_status().json()
    assert job["kind"] == "reindex"
    late = [("files", (path.name, path.read_bytes())) for path in photos[150:]]
    upload = client.http.post("/v1/images/bulk?library=grows", files=late).json()
    is_killed, n_before, n_searches = False, 0, 0
    asked = json.dumps({"library": "grows", "k": 250})
    while True:
        job = client.get(job["links"]["self"])
        result = client.search(photos[0].read_bytes(), asked)["result"]
        assert len(result["hits"]) >= max(n_before, 150)
        n_before, n_searches = len(result["hits"]), n_searches + 1
        if job["finished_at"] is not None:
            break
        if not is_killed and job["progress"]["succeeded"] > 0:
            bulk_worker(service).kill()
            is_killed = True
    assert is_killed
    assert n_searches > 2
    assert job["status"] == "succeeded", job["error"]
    assert client.ended(upload)["progress"]["succeeded"] == 50
    library = client.get("/v1/libraries/grows")
    assert library["models"] == ["phash@1", "efficientnet-lite0@1-int8"]
    stats = client.get("/v1/stats")["libraries"]["grows"]
    assert stats == {"images": 200, "vectors": {"phash": 200, "efficientnet-lite0": 200}}
    result = client.search(photos[199].read_bytes(), asked)["result"]
    assert set(result["hits"][0]["models"]) == {"phash", "efficientnet-lite0"}

    back = client.http.post("/v1/libraries/grows/rollback").raise_for_status().json()
    assert back["models"] == ["phash@1"]
    result = client.search(photos[199].read_bytes(), asked)["result"]
    assert len(result["hits"]) == 200
    client.ended(client.http.delete("/v1/libraries/grows").raise_for_status().json())
    assert client.http.get("/v1/libraries/grows").status_code == 404
