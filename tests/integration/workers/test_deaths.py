"""A process may die, or be ended, with what it works on: what is tried again, what is given up."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
from celery.concurrency.base import BasePool
from celery.signals import worker_shutting_down
from support.doors import Door
from support.plain_uploads import IDS, codes, ending, go_on, outcomes, upload, upload_one
from support.servers import wait_until

from twinlens.shared.queue import COUNT_VECTORS, Reply
from twinlens.shared.redis import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.inside_worker import WorkerProcess
    from support.requests import Client

    from twinlens.shared.settings import Settings


@contextlib.contextmanager
def dying_at(process: WorkerProcess, image_id: str) -> Iterator[list[list[str]]]:
    """Has the process end at each write of a picture. Gives the ids of all that is written."""
    tried: list[list[str]] = []
    vectors = process.runtime.vectors

    def deadly(write: Callable[..., None]) -> Callable[..., None]:
        def note_and_write(collection: Any, ids: Any, *columns: Any) -> None:
            tried.append(list(ids))
            if image_id in ids:
                raise SystemExit(1)
            write(collection, ids, *columns)

        return note_and_write

    with pytest.MonkeyPatch.context() as patch:
        for name in ("upsert", "delete"):
            patch.setattr(vectors, name, deadly(getattr(vectors, name)))
        yield tried


def test_a_picture_that_ends_its_process_three_times_is_given_up_and_the_others_are_not(
    client: Client, process: WorkerProcess
) -> None:
    red, green, blue = IDS
    job_id = upload(client)
    with dying_at(process, green) as tried:
        process.run_all("bulk")
    # All at once, then picture by picture, each time from where it ended.
    assert tried == [[red, green, blue], [red], [green], [green], [blue]]
    assert codes(client, job_id) == [None, "crashed", None]
    assert outcomes(client, job_id) == ["succeeded", "failed", "succeeded"]
    assert ending(client, job_id) == ("succeeded", None)
    assert process.runtime.images.count_vectors("default") == {"phash": 2}


def test_a_picture_that_was_given_up_may_be_posted_again(
    client: Client, process: WorkerProcess
) -> None:
    upload(client)
    with dying_at(process, IDS[0]):
        process.run_all("bulk")
    again = upload(client)
    process.run_all("bulk")
    assert outcomes(client, again) == ["succeeded", "skipped", "skipped"]


def test_a_task_that_ends_its_process_three_times_is_given_up(
    client: Client, process: WorkerProcess, filled: list[str]
) -> None:
    job_id = client.delete(f"/v1/images/{filled[0]}").json["id"]
    with dying_at(process, filled[0]) as tried:
        process.run_all("single")
    assert len(tried) == 3
    assert ending(client, job_id) == ("failed", "crashed")


@pytest.mark.usefixtures("filled")
def test_a_change_whose_worker_died_as_it_was_switched_on_is_done(
    client: Client, process: WorkerProcess
) -> None:
    plan = {"models": ["phash", "efficientnet-lite0"]}
    job_id = client.put("/v1/libraries/default", json=plan).json["id"]
    process.run_next("single")

    def die(*_: Any) -> None:
        raise SystemExit(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process.runtime.jobs, "finish", die)
        process.run_all("bulk")
    assert ending(client, job_id) == ("running", None)
    assert len(client.get("/v1/libraries/default").json["models"]) == 2
    process.runtime.sweeper.sweep(process.celery)
    assert ending(client, job_id) == ("succeeded", None)


def test_outages_between_deaths_are_no_tries_of_the_other_pictures(
    client: Client, process: WorkerProcess, door: Door
) -> None:
    _, green, _ = IDS
    job_id = upload(client)
    door.shut()
    with dying_at(process, green) as tried:
        for _ in range(3):
            process.run_next("bulk")  # all at once: it dies
            process.run_next("bulk")  # one by one: the first fails, since Milvus is away
    assert tried == [IDS, IDS[:1]] * 3
    door.open()
    go_on(process, "bulk", job_id)
    assert outcomes(client, job_id) == ["succeeded"] * 3


class Pool(BasePool):
    """The pool of a worker's processes: one of them is told to end."""

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        pass


def test_a_chunk_that_a_stopping_worker_hands_back_was_not_tried(
    client: Client, process: WorkerProcess
) -> None:
    job_id = upload(client)
    for _ in range(4):
        message = process.take("bulk")
        request = process.request(message)
        request.on_accepted(1, 0.0)  # type: ignore[arg-type] # its types say a str
        assert process.runtime.jobs.begin_try(job_id, "0") == 1
        request.cancel(Pool())
        message.requeue()
    process.run_next("bulk")
    assert outcomes(client, job_id) == ["succeeded"] * 3


@pytest.fixture
def quits() -> Iterator[list[int]]:
    """The signals to this process that a worker would take for a cold shutdown."""
    signals: list[int] = []
    before = signal.signal(signal.SIGQUIT, lambda number, _: signals.append(number))
    yield signals
    signal.signal(signal.SIGQUIT, before)


@pytest.mark.parametrize("how", ["Warm", "Cold"])
def test_a_worker_that_is_told_to_stop_has_its_grace_time_and_no_more(
    settings: Settings,
    process: WorkerProcess,
    monkeypatch: pytest.MonkeyPatch,
    quits: list[int],
    how: str,
) -> None:
    brief = settings.model_copy(update={"worker_grace_s": 0.01})
    before = set(threading.enumerate())
    monkeypatch.setattr("twinlens.workers.process.app.settings", brief)
    worker_shutting_down.send(sender="worker", sig="SIGTERM", how=how, exitcode=0)
    if how == "Warm":
        wait_until(lambda: quits == [signal.SIGQUIT], 30)
    else:
        begun = set(threading.enumerate()) - before
        assert not any(isinstance(thread, threading.Timer) for thread in begun)


both_uploads = pytest.mark.parametrize(
    ("queue", "post"), [("bulk", upload), ("single", upload_one)]
)


@both_uploads
def test_a_chunk_that_ran_too_long_is_queued_again_where_it_was(
    client: Client, process: WorkerProcess, queue: str, post: Callable[[Client], str]
) -> None:
    job_id = post(client)
    message = process.take(queue)
    process.request(message).on_timeout(False, 300)
    assert process.runtime.redis.hlen("unacked") == 0
    [text] = process.runtime.redis.lrange(queue, 0, -1)
    again = json.loads(text)["headers"]
    for name in ("id", "request_id", "task"):
        assert again[name] == message.headers[name]
    process.run_next(queue)
    assert ending(client, job_id) == ("succeeded", None)


def test_another_task_that_ran_too_long_has_failed(
    client: Client, process: WorkerProcess, filled: list[str]
) -> None:
    job_id = client.post("/v1/search", json={"image_id": filled[0]}).json["id"]
    process.request(process.take("search")).on_timeout(False, 60)
    assert ending(client, job_id) == ("failed", "internal")
    assert process.queued("search") == []


def test_a_call_that_ran_too_long_is_answered(process: WorkerProcess) -> None:
    kwargs = {"library": "default"}
    process.celery.send_task(COUNT_VECTORS, kwargs=kwargs, task_id="call", queue="search")
    process.request(process.take("search")).on_timeout(False, 60)
    [text] = process.runtime.redis.lrange(keys.reply("call"), 0, -1)
    error = Reply.model_validate_json(text).error
    assert error is not None
    assert error.type.endswith(":internal")
