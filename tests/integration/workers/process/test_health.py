"""A real worker whose parts hang: `/readyz` names it, and it comes back by itself."""

from __future__ import annotations

import contextlib
import http
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from support.doors import Door, door_to
from support.hanging_model import hanging_card, hanging_graph
from support.inside_worker import serve_only
from support.plain_uploads import codes, job_of, outcomes
from support.requests import client_of, post
from support.servers import running_worker, wait_until
from support.tiny_pair import pair_card, picture_graph, plain_picture, text_graph, tokenizer_file

from twinlens.models.registry import Registry, ensure_models
from twinlens.shared.libraries import new_library
from twinlens.shared.redis import keys
from twinlens.shared.redis.catalog import Catalog
from twinlens.shared.redis.presence import live_workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.requests import Client

    from twinlens.shared.messages import WorkerStatus
    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings

BOTH_LANES = "search,bulk"
LANES = {"worker:search", "worker:bulk"}


@pytest.fixture
def door(lite_uri: str) -> Iterator[Door]:
    with door_to(lite_uri) as door:
        yield door


@pytest.fixture
def settings(settings: Settings, door: Door) -> Settings:
    """Those of a worker that has models of its own, and a way to Milvus that can be shut."""
    changes = {
        "milvus_uri": f"http://127.0.0.1:{door.port}",
        "milvus_timeout_s": 10,
        "embed_time_limit_s": 2,
    }
    ensure_models(settings.models_dir, ["phash@1"])
    return settings.model_copy(update=changes)


@pytest.fixture
def models(settings: Settings) -> Registry:
    return Registry(settings.models_dir)


@pytest.fixture
def client(settings: Settings, redis: Redis) -> Client:
    serve_only(redis, "phash@1")
    return client_of(settings)


@contextlib.contextmanager
def working(settings: Settings, folder: Path, client: Client) -> Iterator[psutil.Process]:
    """Runs a worker of both lanes, which is proven to work."""
    with running_worker(settings, folder, BOTH_LANES) as worker:
        wait_until(lambda: is_ready(client), 60)
        yield worker


def is_ready(client: Client) -> bool:
    status: int = client.get("/readyz").status_code
    return status == http.HTTPStatus.OK


def wrong(client: Client) -> dict[str, str]:
    """Returns what `/readyz` names, by place."""
    errors = client.get("/readyz").json.get("errors", [])
    return {one["location"]: one["message"] for one in errors}


def child_of(worker: psutil.Process) -> psutil.Process:
    [child] = worker.children()
    return child


def has_another(worker: psutil.Process, child: psutil.Process) -> bool:
    return any(one.pid != child.pid for one in worker.children())


def told(redis: Redis) -> WorkerStatus:
    [status] = live_workers(redis)
    return status


def test_a_process_that_stands_still_is_named_and_replaced_by_another(
    settings: Settings, tmp_path: Path, client: Client
) -> None:
    with working(settings, tmp_path, client) as worker:
        child = child_of(worker)
        child.suspend()
        wait_until(lambda: wrong(client).keys() >= LANES, 60)
        assert wrong(client)["worker:bulk"] == "No worker is running."
        job_id = post(client, [("red.png", plain_picture("red"))])
        wait_until(lambda: has_another(worker, child), 60)
        wait_until(lambda: is_ready(client), 60)
        wait_until(lambda: job_of(client, job_id)["finished_at"] is not None, 60)
        assert outcomes(client, job_id) == ["succeeded"]


def test_a_worker_that_takes_no_tasks_is_named_and_ends(
    settings: Settings, tmp_path: Path, client: Client
) -> None:
    with working(settings, tmp_path, client) as worker:
        worker.suspend()
        wait_until(lambda: wrong(client).keys() >= LANES, 60)
        assert wrong(client)["worker:search"] == "No task has ended in 30 s, and none is running."
        wait_until(lambda: worker.status() == psutil.STATUS_ZOMBIE, 120)


def test_a_picture_whose_inference_hangs_is_given_up_and_the_others_are_not(
    settings: Settings, tmp_path: Path, client: Client, redis: Redis, models: Registry
) -> None:
    models.add(hanging_card(), hanging_graph())
    serve_only(redis, "phash@1", "hangs@1")
    with working(settings, tmp_path, client) as worker:
        child = child_of(worker)
        colours = ("black", "white", "yellow")
        job_id = post(client, [(f"{colour}.png", plain_picture(colour)) for colour in colours])
        wait_until(lambda: job_of(client, job_id)["finished_at"] is not None, 120)
        assert codes(client, job_id) == [None, "crashed", None]
        assert outcomes(client, job_id) == ["succeeded", "failed", "succeeded"]
        assert not child.is_running()
        wait_until(lambda: is_ready(client), 60)
    assert "model hangs@1 hangs" in (tmp_path / "worker.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("colour", "why"), [("white", "model hangs@1 hangs"), ("red", "its probe failed: model hangs")]
)
def test_a_process_whose_model_breaks_while_it_is_idle_ends_itself(
    settings: Settings,
    tmp_path: Path,
    client: Client,
    redis: Redis,
    models: Registry,
    colour: str,
    why: str,
) -> None:
    models.add(hanging_card(), hanging_graph())
    serve_only(redis, "hangs@1")
    golden = settings.models_dir / "golden" / models.card("hangs").golden[0].picture
    right = golden.read_bytes()
    brief = settings.model_copy(update={"chunk_time_limit_s": 5})
    with working(brief, tmp_path, client) as worker:
        child = child_of(worker)
        # What it is probed with is read when it is probed for the first time.
        golden.write_bytes(plain_picture(colour))
        wait_until(lambda: not child.is_running(), 60)
        golden.write_bytes(right)
    assert why in (tmp_path / "worker.log").read_text(encoding="utf-8")


def test_a_worker_outlives_an_outage_of_milvus(
    settings: Settings, tmp_path: Path, client: Client, redis: Redis, door: Door
) -> None:
    with working(settings, tmp_path, client) as worker:
        child = child_of(worker)
        door.shut()
        beats: set[float] = set()

        def has_beaten() -> bool:
            if "worker:bulk" in wrong(client):
                beats.add(told(redis).beat_at)
            return len(beats) > 10  # 20 s, in which a new client is tried three times

        wait_until(has_beaten, 120)
        assert "It cannot reach Milvus" in wrong(client)["worker:search"]
        assert "milvus" in wrong(client)
        door.open()
        wait_until(lambda: is_ready(client), 60)
        assert child_of(worker).pid == child.pid


def test_a_model_whose_file_is_gone_is_named_and_the_worker_starts_without_it(
    settings: Settings, tmp_path: Path, client: Client, redis: Redis, models: Registry
) -> None:
    models.add(pair_card(), picture_graph(), (text_graph(), tokenizer_file()))
    Catalog(redis).ensure_library(new_library("art", ["colours@1"]))
    path = models.path_of(models.card("colours"))
    with working(settings, tmp_path, client) as worker:
        assert client.get("/readyz").json["lacks"] == {}
        path.rename(path.with_suffix(".away"))
        wait_until(lambda: "art" in missing_models(client), 60)
        child = child_of(worker)
        child.kill()
        wait_until(lambda: has_another(worker, child), 60)
        wait_until(lambda: is_ready(client), 60)
        assert missing_models(client) == {"art": ["colours@1"]}
        path.with_suffix(".away").rename(path)
        wait_until(lambda: is_ready(client) and missing_models(client) == {}, 60)


def test_a_model_that_differs_from_its_card_is_named_though_its_worker_cannot_start(
    settings: Settings, tmp_path: Path, client: Client, models: Registry
) -> None:
    with models.path_of(models.card("phash")).open("ab") as file:
        file.write(b"x")
    log = tmp_path / "worker.log"

    def has_given_up() -> bool:
        return "the worker cannot start" in log.read_text(encoding="utf-8")

    with running_worker(settings, tmp_path, BOTH_LANES, has_given_up):
        wait_until(lambda: wrong(client).get("library:default") == "No worker has phash@1.", 60)


def missing_models(client: Client) -> dict[str, Any]:
    missing: dict[str, Any] = client.get("/readyz").json["missing_models"]
    return missing


def test_a_library_whose_record_is_gone_is_named(
    settings: Settings, tmp_path: Path, client: Client, redis: Redis
) -> None:
    with working(settings, tmp_path, client):
        wait_until(lambda: "phash@1" in Catalog(redis).models(), 60)
        library_id = client.put("/v1/libraries/art", json={"models": ["phash"]}).json["id"]
        files = {"data": plain_picture("red"), "content_type": "image/png"}
        job_id = client.post("/v1/images?library=art", **files).json["id"]
        wait_until(lambda: job_of(client, job_id)["finished_at"] is not None, 60)
        assert client.get("/readyz").json["lacks"] == {}
        redis.hdel(keys.LIBRARIES, "art")
        [(name, lack)] = client.get("/readyz").json["lacks"].items()
        assert name == library_id
        assert "Redis has lost it" in lack


def test_a_default_library_whose_record_is_gone_is_named_and_made_anew(
    settings: Settings, tmp_path: Path, client: Client, redis: Redis
) -> None:
    with working(settings, tmp_path, client):
        redis.delete(keys.LIBRARIES)
        assert wrong(client) == {"library:default": "No worker has made it yet."}
        wait_until(lambda: is_ready(client), 60)
