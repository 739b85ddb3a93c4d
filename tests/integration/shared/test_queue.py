"""What API and workers share of the queue: Celery's settings, its results, and Redis' client."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis as redis_client
from support.beats import beat
from support.results import stored_result
from support.servers import free_port

from twinlens.shared.queue import LANES, QUEUES, make_celery
from twinlens.shared.redis import keys
from twinlens.shared.redis.client import WORKER_RETRIES, connect, connect_raw
from twinlens.shared.redis.jobs import WAIT_SLICE_S
from twinlens.shared.redis.presence import BEAT_S, SILENCE_S, announce, live_workers
from twinlens.shared.redis.results import read_results
from twinlens.shared.redis.scripts import ARRIVAL_TTL_S
from twinlens.workers.process.sweeper import MIN_AGE_S, SWEEP_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings

# Of Celery's result backend, by a name of Redis' client.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")


@pytest.fixture
def milvus_uri() -> str:
    return "http://127.0.0.1:1"  # nobody asks it


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    """The side of the workers."""
    app = make_celery(
        settings.model_copy(update={"visibility_timeout_s": 21, "job_ttl_s": 5000}),
        "redis",
    )
    yield app
    app.close()


# Results.

VALUES: list[Any] = [None, 0, "ü", [], {"a": [1, 2.5, None]}]


@pytest.mark.parametrize("value", VALUES)
def test_what_celery_keeps_is_read(app: Celery, redis: Redis, value: Any) -> None:
    app.backend.store_result("t", value, "SUCCESS")
    assert read_results(redis, ["t"]) == [value]
    assert 4990 < int(redis.ttl(keys.result("t"))) <= 5000


@pytest.mark.parametrize("value", VALUES)
def test_what_is_kept_in_a_jobs_own_step_is_what_celery_reads(
    app: Celery, redis: Redis, value: Any
) -> None:
    redis.set(*stored_result("t", json.dumps(value)))
    answer = app.AsyncResult("t")
    assert (answer.state, answer.result) == ("SUCCESS", value)


def test_tasks_that_have_not_succeeded_have_no_result(app: Celery, redis: Redis) -> None:
    app.backend.store_result("failed", ValueError("no"), "FAILURE")
    app.backend.store_result("begun", "half", "STARTED")
    app.backend.store_result("b", 2, "SUCCESS")
    app.backend.store_result("a", 1, "SUCCESS")
    ids = ["a", "failed", "nonesuch", "begun", "b"]
    assert read_results(redis, ids) == [1, None, None, None, 2]
    assert read_results(redis, []) == []


# Celery.


def test_a_message_of_a_lost_worker_comes_back_after_the_visibility_timeout(app: Celery) -> None:
    """Three names for one thing; where they differ, the shortest wins."""
    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        assert channel.visibility_timeout == 21
    assert app.conf.visibility_timeout == 21
    assert app.conf.result_backend_transport_options["visibility_timeout"] == 21


def test_lost_messages_are_looked_for_more_often_than_they_are_lost(settings: Settings) -> None:
    options = make_celery(settings, "redis").conf.broker_transport_options
    interval_s = options["unacked_restore_interval"]
    assert interval_s < settings.visibility_timeout_s / 3
    assert options["unacked_restore_throttle"] <= interval_s


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("task_acks_late", True),  # a message stays until its work is done
        ("task_reject_on_worker_lost", True),  # and comes back if its process dies
        ("worker_prefetch_multiplier", 1),  # nobody holds what another could do
        ("task_serializer", "json"),
        ("result_serializer", "json"),
        ("accept_content", ["json"]),  # nobody who reaches Redis runs code
        ("task_default_queue", "bulk"),
        ("result_backend_always_retry", True),
        ("broker_connection_retry_on_startup", True),
        ("worker_cancel_long_running_tasks_on_connection_loss", False),
        ("worker_hijack_root_logger", False),
        ("result_expires", 5000),
    ],
)
def test_a_setting_of_celery_that_matters(app: Celery, name: str, wanted: Any) -> None:
    assert app.conf[name] == wanted


def test_a_task_may_run_as_long_as_is_set(settings: Settings) -> None:
    limited = settings.model_copy(update={"chunk_time_limit_s": 77})
    assert make_celery(limited, "redis").conf.task_time_limit == 77


def test_the_api_opens_nothing_for_results(settings: Settings) -> None:
    api = make_celery(settings)
    assert type(api.backend).__name__ == "DisabledBackend"
    # A caller waits: it is told soon that Redis is away.
    assert api.conf.task_publish_retry_policy["max_retries"] == 1
    assert api.conf.task_publish_retry_policy["interval_max"] < 1


def test_a_single_picture_waits_for_a_chunk_and_not_for_all(app: Celery) -> None:
    assert LANES["bulk"] == ("single", "bulk")
    assert sorted(QUEUES) == ["bulk", "search", "single"]
    assert app.conf.broker_transport_options["queue_order_strategy"] == "round_robin"


# Limits of time that rest on each other.


def test_what_looks_for_the_lost_gives_it_time(settings: Settings) -> None:
    assert settings.visibility_timeout_s < MIN_AGE_S, "a message comes back before it is missed"
    assert SWEEP_S < MIN_AGE_S <= ARRIVAL_TTL_S
    assert ARRIVAL_TTL_S + SWEEP_S <= 30, "what is promised"
    assert BEAT_S < SILENCE_S / 2, "one beat may be late"
    assert settings.visibility_timeout_s > SILENCE_S


# Redis' client.


def test_a_wait_ends_before_its_socket_gives_up(settings: Settings) -> None:
    options = connect(settings.redis_url).connection_pool.connection_kwargs
    assert WAIT_SLICE_S < options["socket_timeout"] <= 10
    assert options["socket_connect_timeout"] <= 1, "a caller is told within 1 s"
    assert 0 < options["health_check_interval"] <= 60


def test_pictures_are_read_as_they_are(settings: Settings, redis: Redis) -> None:
    redis.set("k", "ü")
    with connect_raw(settings.redis_url) as pictures:
        assert pictures.get("k") == "ü".encode()
    assert redis.get("k") == "ü"


def slept(monkeypatch: pytest.MonkeyPatch, **options: int) -> list[float]:
    """Returns how long a client waits between its tries of a Redis that is away."""
    pauses: list[float] = []
    monkeypatch.setattr("redis.retry.sleep", pauses.append)
    client = connect(f"redis://127.0.0.1:{free_port()}/0", **options)
    with pytest.raises(redis_client.ConnectionError):
        client.ping()
    return pauses


def test_a_worker_outlives_a_restart_of_redis_and_a_caller_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert 3 < sum(slept(monkeypatch, n_retries=WORKER_RETRIES)) < 60
    [pause_s] = slept(monkeypatch)
    assert pause_s < 0.5
    assert slept(monkeypatch, n_retries=0) == []


def test_a_connection_that_breaks_is_made_anew(settings: Settings, redis: Redis) -> None:
    client = connect(settings.redis_url)
    for _ in range(2):
        redis.client_kill_filter(_id=str(client.client_id()))
        assert client.ping()
    client.close()


# Who lives.


def test_workers_live_until_they_are_silent_for_three_beats(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = 1_700_000_000.0
    ages = {"b": 0.0, "a": 3 * BEAT_S, "late": 3 * BEAT_S + 0.1, "gone": 1e6, "ahead": -5.0}
    for name, age_s in ages.items():
        announce(redis, beat(name, moment - age_s))
    monkeypatch.setattr(time, "time", lambda: moment)
    assert [worker.name for worker in live_workers(redis)] == ["a", "ahead", "b"]
    monkeypatch.setattr(time, "time", lambda: moment - 1e6)
    assert [worker.name for worker in live_workers(redis)] == ["a", "ahead", "b"], "forgotten"
    announce(redis, beat("late", moment))
    assert [worker.name for worker in live_workers(redis)] == ["a", "ahead", "b", "late"]


def test_what_a_worker_tells_is_its_last_word(redis: Redis) -> None:
    announce(redis, beat("a", time.time()))
    told = beat("a", time.time() + 1).model_copy(update={"milvus": "away", "n_pictures": 7})
    announce(redis, told)
    assert live_workers(redis) == [told]
