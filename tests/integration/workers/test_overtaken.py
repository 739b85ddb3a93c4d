"""A chunk may stand still while others do its work, and undo it: it brings nothing back."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Any

import pytest
from support.between import before_transaction
from support.doors import door_to
from support.embedding import targets_of
from support.inside_worker import serve_only
from support.plain_uploads import IDS, ending, job_of, outcomes, upload
from support.servers import running_worker, wait_until

from twinlens.shared.errors import Unavailable
from twinlens.shared.messages import Description
from twinlens.shared.queue import chunk_task, publish
from twinlens.shared.redis.presence import live_workers
from twinlens.workers.process.runtime import build_runtime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import psutil
    from support.doors import Door
    from support.inside_worker import WorkerProcess
    from support.requests import Client

    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings


def stand_still(process: WorkerProcess, meanwhile: Callable[[], None]) -> None:
    """Does the next chunk; something else happens before its model has it, and Milvus then."""
    [target] = targets_of(process.runtime)
    really_embed = target.model.embed_batch
    with pytest.MonkeyPatch.context() as patch:

        def embed(pixels: Any) -> Any:
            patch.setattr(target.model, "embed_batch", really_embed)
            meanwhile()
            return really_embed(pixels)

        patch.setattr(target.model, "embed_batch", embed)
        process.run_next("bulk")


def delete_all(client: Client, process: WorkerProcess) -> None:
    for image_id in IDS:
        assert client.delete(f"/v1/images/{image_id}").status_code == 202
    process.run_all("single")


def do_again(process: WorkerProcess, job_id: str) -> None:
    """As a worker that got the chunk's message, when the first one was silent for too long."""
    publish(process.celery, chunk_task("bulk", job_id, 0), "-")
    process.run_next("bulk")


def stored(process: WorkerProcess) -> tuple[int, dict[str, int]]:
    return process.runtime.catalog.count("default"), process.runtime.images.count_vectors("default")


def test_what_was_removed_after_the_job_stays_removed(
    client: Client, process: WorkerProcess
) -> None:
    job_id = upload(client)

    def end_and_delete() -> None:
        do_again(process, job_id)
        assert ending(client, job_id) == ("succeeded", None)
        delete_all(client, process)

    stand_still(process, end_and_delete)
    assert stored(process) == (0, {"phash": 0})
    assert outcomes(client, job_id) == ["succeeded"] * 3


def test_what_was_removed_while_a_chunk_stood_still_stays_removed(
    client: Client, process: WorkerProcess
) -> None:
    """Another job had the same pictures. This one goes on, and comes to its end."""
    job_id = upload(client)

    def post_and_delete() -> None:
        upload(client)
        process.run_next("bulk")
        delete_all(client, process)

    stand_still(process, post_and_delete)
    assert stored(process) == (0, {"phash": 0})
    assert ending(client, job_id) == ("succeeded", None)


def test_what_was_posted_again_after_its_removal_stays(
    client: Client, process: WorkerProcess
) -> None:
    job_id = upload(client)

    def delete_and_post() -> None:
        do_again(process, job_id)
        delete_all(client, process)
        upload(client)
        process.run_next("bulk")

    stand_still(process, delete_and_post)
    assert stored(process) == (3, {"phash": 3})


def test_what_a_job_that_was_cancelled_still_embeds_is_taken_back(
    client: Client, process: WorkerProcess
) -> None:
    job_id = upload(client)

    def cancel() -> None:
        assert process.runtime.jobs.cancel(job_id)

    stand_still(process, cancel)
    assert stored(process) == (0, {"phash": 0})
    assert job_of(client, job_id)["status"] == "cancelled"


def test_what_was_written_of_a_job_that_is_cancelled_as_its_worker_dies_is_taken_back(
    client: Client, process: WorkerProcess
) -> None:
    job_id = upload(client)

    def die() -> None:
        raise SystemExit

    before_transaction(process.runtime.redis, die)
    process.run_next("bulk")
    assert stored(process) == (0, {"phash": 3})
    assert process.runtime.jobs.cancel(job_id)
    process.run_all("bulk")
    assert stored(process) == (0, {"phash": 0})


def test_what_cannot_be_taken_back_at_once_is_later(
    client: Client, process: WorkerProcess, door: Door
) -> None:
    """Milvus is away as the chunk finds that its job has ended."""
    job_id = upload(client)

    def cancel() -> None:
        assert process.runtime.jobs.cancel(job_id)
        door.shut()

    before_transaction(process.runtime.redis, cancel)
    process.run_next("bulk")
    door.open()

    def is_taken_back() -> bool:
        process.run_all("bulk")
        with contextlib.suppress(Unavailable):
            return stored(process) == (0, {"phash": 0})
        return False

    wait_until(is_taken_back, 60)


def test_a_removal_that_is_cancelled_as_its_worker_dies_is_done_whole(
    client: Client, process: WorkerProcess, filled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its pictures would be catalogued, and no model would find them."""
    job_id = client.post("/v1/images/delete", json={"ids": filled}).json["id"]
    process.run_next("single")

    catalog = process.runtime.catalog
    really_remove = catalog.remove

    def die(*_: Any) -> None:
        monkeypatch.setattr(catalog, "remove", really_remove)
        raise SystemExit

    monkeypatch.setattr(catalog, "remove", die)
    process.run_next("bulk")
    assert stored(process) == (3, {"phash": 0})
    assert process.runtime.jobs.cancel(job_id)
    process.run_all("bulk")
    assert stored(process) == (0, {"phash": 0})


def test_what_was_changed_after_the_job_stays_changed(
    client: Client, process: WorkerProcess
) -> None:
    job_id = upload(client)

    def end_and_rename() -> None:
        do_again(process, job_id)
        change = process.runtime.amendments.change
        change("default", IDS[0], Description(name="mine.png", metadata={"n": 1}))

    stand_still(process, end_and_rename)
    assert client.get(f"/v1/images/{IDS[0]}").json["name"] == "mine.png"
    asked = {"image_id": IDS[1], "filter": 'name == "mine.png" and n == 1'}
    search = client.post("/v1/search", json=asked).json["id"]
    process.run_next("search")
    [hit] = job_of(client, search)["result"]["hits"]
    assert hit["image"]["id"] == IDS[0]


# A worker that is really stopped.


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"visibility_timeout_s": 3})


def test_a_worker_that_is_stopped_in_a_chunk_brings_nothing_back(
    client: Client, redis: Redis, settings: Settings, models_dir: Path, tmp_path: Path
) -> None:
    settings.models_dir.symlink_to(models_dir)
    serve_only(redis, "phash@1")
    for name in ("slow", "quick"):
        (tmp_path / name).mkdir()
    with door_to(settings.milvus_uri) as door:
        behind = settings.model_copy(update={"milvus_uri": f"http://127.0.0.1:{door.port}"})
        with running_worker(behind, tmp_path / "slow") as slow:
            [own] = live_workers(redis)
            door.hush()
            job_id = upload(client)
            wait_until(lambda: job_of(client, job_id)["status"] == "running", 30)
            family = [slow, *slow.children(recursive=True)]
            tell(family, signal.SIGSTOP)
            wait_until(lambda: not live_workers(redis), 30)
            with running_worker(settings, tmp_path / "quick"):
                wait_until(lambda: ending(client, job_id) == ("succeeded", None), 60)
                deletes = [client.delete(f"/v1/images/{one}").json["id"] for one in IDS]
                wait_until(lambda: all(job_of(client, one)["finished_at"] for one in deletes), 60)
            door.open()
            tell(family, signal.SIGCONT)
            wait_until(lambda: own.name in busy(redis), 60)
    runtime = build_runtime(settings, ["bulk"])
    assert runtime.catalog.count("default") == 0
    assert runtime.images.count_vectors("default") == {"phash": 0}


def busy(redis: Redis) -> set[str]:
    """Returns the processes that have done a chunk."""
    return {one.name for one in live_workers(redis) if one.busy_s}


def tell(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        process.send_signal(number)
