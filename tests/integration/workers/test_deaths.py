"""A process may die, or be ended, with what it works on: what is tried again, what is given up."""

from __future__ import annotations

import json
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
from celery.signals import worker_shutting_down
from support.doors import Door
from support.plain_uploads import IDS, codes, ending, has_ended, outcomes, upload, upload_one
from support.servers import wait_until

from twinlens.shared.queue import COUNT_VECTORS, Reply
from twinlens.shared.redis import keys
from twinlens.workers.library.images import count_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask.testing import FlaskClient
    from support.inside_worker import WorkerProcess

    from twinlens.shared.settings import Settings
    from twinlens.workers.milvus.vectors import Vectors

# Of Celery's result backend, by a name of Redis' client.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")


class Deadly:
    """Vectors that end the process at the write of a picture, and note all that is written."""

    def __init__(self, vectors: Vectors, image_id: str) -> None:
        self.tried: list[list[str]] = []
        self._vectors, self._image_id = vectors, image_id

    def upsert(self, collection: Any, ids: Any, embeddings: Any, metadata: Any) -> None:
        self._note(ids)
        self._vectors.upsert(collection, ids, embeddings, metadata)

    def delete(self, collection: Any, ids: Any) -> None:
        self._note(ids)
        self._vectors.delete(collection, ids)

    def _note(self, ids: list[str]) -> None:
        self.tried.append(list(ids))
        if self._image_id in ids:
            raise SystemExit(1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vectors, name)


def die_at(process: WorkerProcess, image_id: str) -> Deadly:
    process.runtime.vectors = deadly = Deadly(process.runtime.vectors, image_id)  # type: ignore[assignment]
    return deadly


def test_a_picture_that_ends_its_process_three_times_is_given_up_and_the_others_are_not(
    client: FlaskClient, process: WorkerProcess
) -> None:
    red, green, blue = IDS
    deadly = die_at(process, green)
    job_id = upload(client)
    process.run_all("bulk")
    # All at once, then picture by picture, each time from where it ended.
    assert deadly.tried == [[red, green, blue], [red], [green], [green], [blue]]
    assert codes(client, job_id) == [None, "crashed", None]
    assert outcomes(client, job_id) == ["succeeded", "failed", "succeeded"]
    assert ending(client, job_id) == ("succeeded", None)
    assert count_vectors(process.runtime, "default") == {"phash": 2}


def test_a_picture_that_was_given_up_may_be_posted_again(
    client: FlaskClient, process: WorkerProcess
) -> None:
    vectors = process.runtime.vectors
    die_at(process, IDS[0])
    upload(client)
    process.run_all("bulk")
    process.runtime.vectors = vectors
    again = upload(client)
    process.run_all("bulk")
    assert outcomes(client, again) == ["succeeded", "skipped", "skipped"]


def test_a_task_that_ends_its_process_three_times_is_given_up(
    client: FlaskClient, process: WorkerProcess, filled: list[str]
) -> None:
    deadly = die_at(process, filled[0])
    job_id = client.delete(f"/v1/images/{filled[0]}").json["id"]
    process.run_all("single")
    assert len(deadly.tried) == 3
    assert ending(client, job_id) == ("failed", "crashed")


def test_outages_between_deaths_are_no_tries_of_the_other_pictures(
    client: FlaskClient, process: WorkerProcess, door: Door
) -> None:
    vectors = process.runtime.vectors
    _, green, _ = IDS
    deadly = die_at(process, green)
    job_id = upload(client)
    door.shut()
    for _ in range(3):
        process.run_next("bulk")  # all at once: it dies
        process.run_next("bulk")  # one by one: the first fails, since Milvus is away
    assert deadly.tried == [IDS, IDS[:1]] * 3
    process.runtime.vectors = vectors
    door.open()
    wait_until(lambda: process.run_next("bulk") or has_ended(process, job_id), 60)
    assert outcomes(client, job_id) == ["succeeded"] * 3


class Pool:
    """The pool of a worker's processes: one of them is told to end."""

    def terminate_job(self, pid: int, signal: int) -> None:
        pass


def test_a_chunk_that_a_stopping_worker_hands_back_was_not_tried(
    client: FlaskClient, process: WorkerProcess
) -> None:
    job_id = upload(client)
    for _ in range(4):
        message = process.take("bulk")
        request = process.request(message)
        request.on_accepted(1, 0.0)
        assert process.runtime.jobs.begin_try(job_id, "0") == 1
        request.cancel(Pool())
        message.requeue()
    process.run_next("bulk")
    assert outcomes(client, job_id) == ["succeeded"] * 3


@pytest.fixture
def quits() -> Iterator[list[int]]:
    """The signals to this process that a worker would take for a cold shutdown."""
    found: list[int] = []
    before = signal.signal(signal.SIGQUIT, lambda number, _: found.append(number))
    yield found
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
    monkeypatch.setattr("twinlens.workers.process.app.settings", brief)
    worker_shutting_down.send(sender="worker", sig="SIGTERM", how=how, exitcode=0)
    if how == "Warm":
        wait_until(lambda: quits == [signal.SIGQUIT], 30)
    else:
        assert not any(isinstance(thread, threading.Timer) for thread in threading.enumerate())


both_uploads = pytest.mark.parametrize(
    ("queue", "post"), [("bulk", upload), ("single", upload_one)]
)


@both_uploads
def test_a_chunk_that_ran_too_long_is_queued_again_where_it_was(
    client: FlaskClient, process: WorkerProcess, queue: str, post: Callable[[FlaskClient], str]
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
    client: FlaskClient, process: WorkerProcess, filled: list[str]
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
