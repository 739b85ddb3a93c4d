"""A whole store is lost, Redis or Milvus: one command brings it back while the rest goes on."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner, Result
from support.clients import WAIT, Client
from support.photos import make_photos
from support.servers import wait_until

from twinlens.cli.main import main
from twinlens.cli.service.background import Running, running_service
from twinlens.shared.blobs import image_id_of
from twinlens.shared.redis.client import connect

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pytest

N_PICTURES = 40
LIBRARY = "art"


def reconcile(service: Running, *options: str) -> Result:
    return CliRunner().invoke(main, ["reconcile", "--url", service.url, *options])


def differences(done: Result) -> dict[str, int]:
    """Returns how many images differ, of all libraries together."""
    n_by_kind: dict[str, int] = {}
    for job in json.loads(done.stdout)["items"]:
        for kind, one in job["result"]["differences"].items():
            n_by_kind[kind] = n_by_kind.get(kind, 0) + one["count"]
    return n_by_kind


def records(client: Client, library: str) -> dict[str, Any]:
    items = client.get("/v1/images", library=library, limit=1000)["items"]
    return {one["id"]: one for one in items}


def fill(client: Client, photos: Sequence[Path]) -> None:
    client.http.put(f"/v1/libraries/{LIBRARY}", json={"models": ["phash"]}).raise_for_status()
    files = [("files", (path.name, path.read_bytes())) for path in photos]
    for library in ("default", LIBRARY):
        job = client.http.post(f"/v1/images/bulk?library={library}", files=files).json()
        assert client.ended(job)["status"] == "succeeded"
    first, second = (image_id_of(path.read_bytes()) for path in photos[:2])
    told = {"name": "mine.jpg", "metadata": {"year": 2026}}
    client.http.patch(f"/v1/images/{first}", json=told).raise_for_status()
    gone = client.http.delete(f"/v1/images/{second}?library={LIBRARY}", headers=WAIT).json()
    assert gone["status"] == "succeeded"


def is_whole(client: Client, photos: Sequence[Path], library: str) -> bool:
    """Tells if each picture finds itself under each model."""
    asked = json.dumps({"library": library, "k": 1})
    for path in photos:
        content = path.read_bytes()
        by_model = client.search(content, asked)["result"]["by_model"]
        if any(some[0]["image_id"] != image_id_of(content) for some in by_model.values()):
            return False
    return True


def test_a_store_that_is_lost_comes_back(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINLENS_MILVUS_TIMEOUT_S", "120")
    photos = make_photos(tmp_path / "photos", N_PICTURES, seed=503)
    late = make_photos(tmp_path / "late", N_PICTURES, seed=504)
    with running_service(data_dir) as service, Client(service.url) as client:
        fill(client, photos)
        before = {library: records(client, library) for library in ("default", LIBRARY)}
        redis_url = json.loads((data_dir / "services.json").read_text())["redis_url"]
        with connect(redis_url) as redis:
            redis.flushall()
        wait_until(lambda: len(client.get("/v1/libraries")["items"]) == 2, 60)
        assert "twinlens reconcile" in client.http.get("/readyz").text
        done = reconcile(service, "--check", "--json")
        assert (done.exit_code, differences(done)) == (1, {"not_catalogued": 2 * N_PICTURES - 1})

        upload = client.index(late, wait=False)
        done = reconcile(service, "--json")
        assert done.exit_code == 0, done.output
        wait_until(lambda: client.http.get("/readyz").is_success, 60)
        n_queued = [job["progress"]["received"] for job in json.loads(done.stdout)["items"]]
        assert n_queued == [0, 0], "what Milvus has is not embedded again"
        assert client.ended(upload)["progress"]["succeeded"] == N_PICTURES
        assert records(client, LIBRARY) == before[LIBRARY]
        after = records(client, "default")
        assert {one: after[one] for one in before["default"]} == before["default"]
        assert reconcile(service, "--check").exit_code == 0

    shutil.rmtree(data_dir / "milvus")
    with running_service(data_dir) as service, Client(service.url) as client:
        assert differences(reconcile(service, "--check", "--json")) == {
            "not_embedded": 3 * N_PICTURES - 1
        }
        done = reconcile(service)
        assert done.exit_code == 0, done.output
        assert records(client, "default") == after
        assert records(client, LIBRARY) == before[LIBRARY]
        assert is_whole(client, [*photos, *late], "default")
        assert is_whole(client, [photos[0], *photos[2:]], LIBRARY)
        done = reconcile(service, "--check", "--library", LIBRARY)
        assert (done.exit_code, "nothing differs" in done.stdout) == (0, True)
