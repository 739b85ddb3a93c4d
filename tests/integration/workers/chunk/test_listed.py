"""The manifest of a listing names what was fetched: a chunk that runs again finds the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from support.plain_uploads import IDS, PICTURES

from twinlens.shared.manifests import read_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from support.inside_worker import WorkerProcess
    from support.requests import Client

    from twinlens.shared.settings import Settings

NAMES = list(PICTURES)


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"allowed_roots": [tmp_path]})


def test_what_is_fetched_is_not_fetched_again_and_what_failed_is(
    client: Client, process: WorkerProcess, tmp_path: Path
) -> None:
    here, later = (tmp_path / name for name in NAMES[:2])
    here.write_bytes(PICTURES[NAMES[0]])
    listing = "\n".join(
        json.dumps({"uri": f"file://{path}", "name": path.name, "metadata": {"n": 1}})
        for path in (here, later)
    )
    answer = client.post("/v1/images/bulk", data=listing, content_type="application/x-ndjson")
    job_id = answer.json["id"]
    items = process.runtime.chunks.run(job_id, 0)
    assert [item.outcome for item in items] == ["succeeded", "failed"]

    here.unlink()
    later.write_bytes(PICTURES[NAMES[1]])
    items = process.runtime.chunks.run(job_id, 0)
    assert [item.outcome for item in items] == ["succeeded", "succeeded"]
    _, lines = read_manifest(process.runtime.blobs, job_id, 0)
    assert [(line.image_id, line.name, line.metadata) for line in lines] == [
        (image_id, name, {"n": 1}) for image_id, name in zip(IDS[:2], NAMES[:2], strict=True)
    ]
