"""What a worker works on stays its own for longer than the visibility timeout."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from kombu.transport.redis import Mutex
from redis import ConnectionError as RedisAway
from support.plain_uploads import ending, upload
from support.servers import wait_until

from twinlens.workers.process import lease
from twinlens.workers.process.lease import LeaseRenewal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.inside_worker import WorkerProcess
    from support.requests import Client


class Clock:
    """Time as the lease and kombu see it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000.0
        monkeypatch.setattr(lease, "time", SimpleNamespace(time=lambda: self.now))
        monkeypatch.setattr("kombu.transport.redis.time", lambda: self.now)


class Timer:
    """The timer of a worker's event loop, of which a test says when it is due."""

    def __init__(self) -> None:
        self.interval_s = 0.0
        self.tick: Callable[[], None] = lambda: None
        self.is_cancelled = False

    def call_repeatedly(self, interval_s: float, call: Any, args: tuple[Any, ...]) -> Timer:
        self.interval_s, self.tick = interval_s, lambda: call(*args)
        return self

    def cancel(self) -> None:
        self.is_cancelled = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def timer() -> Timer:
    return Timer()


def consumer_of(process: WorkerProcess, timer: Timer, channel: Any) -> Any:
    """What a worker gives its steps, as far as this one looks at it."""
    tasks = SimpleNamespace(channel=channel)
    return SimpleNamespace(app=process.celery, timer=timer, task_consumer=tasks)


def start_renewal(process: WorkerProcess, timer: Timer, channel: Any = None) -> LeaseRenewal:
    consumer = consumer_of(process, timer, channel or process.channel)
    step = LeaseRenewal(consumer)
    step.start(consumer)
    return step


def come_back(process: WorkerProcess) -> list[str]:
    """Looks for lost messages, as every worker does each second. Returns what is queued then."""
    process.channel.qos.restore_visible(interval=1)
    return process.queued("bulk")


def test_a_message_that_is_worked_on_does_not_come_back(
    client: Client, process: WorkerProcess, clock: Clock, timer: Timer
) -> None:
    job_id = upload(client)
    message = process.take("bulk")
    start_renewal(process, timer)
    for _ in range(10):
        clock.now += timer.interval_s
        timer.tick()
        assert come_back(process) == []
    process.request(message).execute()
    assert ending(client, job_id) == ("succeeded", None)
    timer.tick()
    assert not process.runtime.redis.exists("unacked", "unacked_index")


def test_a_message_of_a_silent_worker_comes_back(
    client: Client, process: WorkerProcess, clock: Clock
) -> None:
    job_id = upload(client)
    process.take("bulk")
    visible_s = process.celery.conf.broker_transport_options["visibility_timeout"]
    clock.now += visible_s - 1
    assert come_back(process) == []
    clock.now += 2
    assert come_back(process) == [f"{job_id}.0"]
    process.run_next("bulk")
    assert client.get("/v1/stats").json["rescues"] == {"bulk": 1}


def test_a_worker_that_dies_as_it_restores_holds_up_the_others_for_seconds(
    client: Client, process: WorkerProcess, clock: Clock
) -> None:
    job_id = upload(client)
    process.take("bulk")
    clock.now += process.celery.conf.broker_transport_options["visibility_timeout"] + 1
    channel = process.channel
    with channel.conn_or_acquire() as dead:
        # As kombu takes it; a worker that is killed never leaves the `with`.
        held = Mutex(dead, channel.unacked_mutex_key, channel.unacked_mutex_expire)
        held.__enter__()
        assert come_back(process) == []
        wait_until(lambda: come_back(process) == [f"{job_id}.0"], 30)
        held.__exit__(None, None, None)


def test_it_is_renewed_three_times_within_a_timeout_until_the_worker_stops(
    process: WorkerProcess, timer: Timer
) -> None:
    step = start_renewal(process, timer)
    visible_s = process.celery.conf.broker_transport_options["visibility_timeout"]
    assert 3 * timer.interval_s <= visible_s == process.celery.conf.visibility_timeout
    assert not timer.is_cancelled
    step.stop(None)
    assert timer.is_cancelled


def test_a_worker_has_the_renewal(process: WorkerProcess) -> None:
    assert LeaseRenewal in process.celery.steps["consumer"]


class Between:
    """A channel of which something else happens just before its client writes."""

    def __init__(self, channel: Any, happen: Callable[[], None]) -> None:
        self._channel, self._happen = channel, happen

    @contextlib.contextmanager
    def conn_or_acquire(self) -> Iterator[Any]:
        with self._channel.conn_or_acquire() as client:
            self._happen()
            yield client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)


def test_a_message_that_was_acknowledged_meanwhile_does_not_come_back(
    client: Client, process: WorkerProcess, clock: Clock, timer: Timer
) -> None:
    upload(client)
    message = process.take("bulk")
    start_renewal(process, timer, Between(process.channel, message.ack))
    timer.tick()
    assert not process.runtime.redis.exists("unacked", "unacked_index")


def test_a_broken_connection_does_not_end_the_worker(
    client: Client,
    process: WorkerProcess,
    clock: Clock,
    timer: Timer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise RedisAway("Connection reset by peer")

    upload(client)
    process.take("bulk")
    start_renewal(process, timer, Between(process.channel, fail))
    timer.tick()
    assert "could not renew the lease of 1 tasks" in caplog.text
