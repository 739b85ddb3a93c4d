"""Parts are killed while they work: what was accepted is done all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
from e2e.conftest import Client
from photos import make_photos

N_PICTURES = 500
NETWORKS = ("efficientnet-lite0", "efficientnet-lite2")


def bulk_worker(service: Any) -> psutil.Process:
    """The Celery worker of the bulk lane, the parent of its processes."""
    [found] = [
        child
        for child in psutil.Process(service.process.pid).children()
        if "bulk" in child.cmdline()
    ]
    return found


def test_a_killed_bulk_worker_costs_no_picture(
    service: Any, client: Client, tmp_path: Path
) -> None:
    photos = make_photos(tmp_path / "photos", N_PICTURES, seed=500)
    before = client.get("/v1/stats")["libraries"]["default"]["images"]
    job = client.index(photos, wait=False)
    while client.get(job["links"]["self"])["progress"]["succeeded"] < N_PICTURES // 4:
        client.http.get(job["links"]["self"], headers={"Prefer": "wait=1"})
    bulk_worker(service).kill()

    job = client.ended(job)
    assert job["status"] == "succeeded"
    assert job["progress"] == {"total": 500, "succeeded": 500, "skipped": 0, "failed": 0}
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
