"""Each process says that it lives, whatever happens, and how quick it is."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from redis import ConnectionError as RedisAway
from support.doors import Door
from support.plain_uploads import upload
from support.tiny_pair import pair_card, picture_graph, text_graph, tokenizer_file

from twinlens.shared.messages import WorkerStatus
from twinlens.shared.redis.presence import BEAT_S, SILENCE_S, live_workers
from twinlens.workers.process import heartbeat, sweeper
from twinlens.workers.process.heartbeat import Heartbeat, Sweeps

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.inside_worker import WorkerProcess
    from support.requests import Client


class Clock:
    """Time as a heartbeat sees it: it passes as it sleeps, and something may happen meanwhile."""

    def __init__(self, n_beats: int, happen: Callable[[int], None] = lambda _: None) -> None:
        self.now = 0.0
        self.n_beats = 0
        self._n_most, self._happen = n_beats, happen

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return time.time()

    def sleep(self, pause_s: float) -> None:
        self.now += pause_s
        self.n_beats += 1
        self._happen(self.n_beats)
        if self.n_beats == self._n_most:
            raise SystemExit  # as the process ends


def beat(process: WorkerProcess, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(heartbeat, "time", clock)
    with pytest.raises(SystemExit):
        Heartbeat(process.runtime).run()


def sweep(process: WorkerProcess, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(heartbeat, "time", clock)
    with pytest.raises(SystemExit):
        Sweeps(process.runtime, process.celery).run()


def told(process: WorkerProcess) -> WorkerStatus:
    [status] = live_workers(process.runtime.redis)
    return status


def test_a_process_tells_what_it_is_and_has_done(
    process: WorkerProcess, filled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = time.time()
    beat(process, monkeypatch, Clock(1))
    status = told(process)
    assert (status.name, status.lanes, status.milvus) == (process.runtime.name, ["bulk"], "ok")
    assert before <= status.beat_at <= time.time()
    assert status.n_pictures == len(filled)
    assert status.busy_s == round(process.runtime.counts.busy_s, 2)


class Failing:
    """A Redis client that fails in the first calls of a name."""

    def __init__(self, redis: Any, name: str, *errors: Exception) -> None:
        self._redis, self._name, self._errors = redis, name, list(errors)
        self.n_calls = 0

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            self.n_calls += 1
            if self._errors:
                raise self._errors.pop(0)
        return getattr(self._redis, name)


def sweep_with(process: WorkerProcess, redis: Any) -> None:
    sweeper = replace(process.runtime.sweeper, redis=redis)
    process.runtime = replace(process.runtime, sweeper=sweeper)


@pytest.mark.parametrize("error", [RedisAway("reset by peer"), RuntimeError("a bug of ours")])
def test_it_goes_on_after_an_error(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    redis = process.runtime.redis
    failing: Any = Failing(redis, "hset", error, error)
    process.runtime = replace(process.runtime, redis=failing)
    beat(process, monkeypatch, Clock(2))
    assert live_workers(redis) == []
    assert failing.n_calls == 2
    beat(process, monkeypatch, Clock(1))
    assert told(process).name == process.runtime.name


@pytest.mark.parametrize("error", [RedisAway("reset by peer"), RuntimeError("a bug of ours")])
def test_it_goes_on_after_a_sweep_that_failed(
    client: Client,
    process: WorkerProcess,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    monkeypatch.setattr(sweeper, "MIN_AGE_S", 0)
    job_id = upload(client)
    process.lose("bulk")
    failing = Failing(process.runtime.redis, "set", error)
    sweep_with(process, failing)
    sweep(process, monkeypatch, Clock(2))
    assert failing.n_calls == 2
    assert process.queued("bulk") == [f"{job_id}.0"]


def test_it_sweeps_every_ten_seconds(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Failing(process.runtime.redis, "set")
    sweep_with(process, watched)
    clock = Clock(3)
    sweep(process, monkeypatch, clock)
    assert (watched.n_calls, clock.now) == (3, 30)


def test_it_beats_while_a_sweep_takes_long(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_begun, is_over = threading.Event(), threading.Event()

    def look_long() -> list[str]:
        has_begun.set()
        assert is_over.wait(60)
        raise SystemExit

    def end_if_it_is_over(n_beats: int) -> None:
        if is_over.is_set():
            raise SystemExit
        if n_beats > 1 and has_begun.is_set():
            is_over.set()

    monkeypatch.setattr(process.runtime.feed, "lost_arrivals", look_long)
    monkeypatch.setattr(heartbeat, "time", Clock(100_000, end_if_it_is_over))
    rounds = (Sweeps(process.runtime, process.celery), Heartbeat(process.runtime))
    with ThreadPoolExecutor(2) as threads:
        ends = [threads.submit(one.run).exception for one in rounds]
    assert [type(end()) for end in ends] == [SystemExit, SystemExit]


def test_a_model_that_was_added_is_told_with_the_next_sweep(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = process.runtime.settings.models_dir
    own.unlink()
    process.runtime.registry.add(pair_card(), picture_graph(), (text_graph(), tokenizer_file()))
    sweep(process, monkeypatch, Clock(1))
    assert list(process.runtime.catalog.models()) == ["colours@1"]


def test_the_rates_are_those_of_the_last_minute(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[Any] = []  # of pictures and tasks

    def work(n_beats: int) -> None:
        status = told(process)
        rates.append((status.pictures_per_s, status.tasks_per_s))
        if n_beats <= 30:  # a minute's
            process.runtime.counts.n_pictures += 10
            process.runtime.counts.n_tasks += 2

    beat(process, monkeypatch, Clock(70, work))
    assert rates[0] == (0, 0)
    assert rates[1] == (5, 1)
    assert rates[30] == (5, 1), "a minute of work"
    assert rates[45] == (2.5, 0.5), "half of a minute"
    assert rates[-1] == (0, 0), "long ago"


@pytest.mark.parametrize("outage", [Door.shut, Door.hush])
def test_it_tells_that_milvus_is_away_and_that_it_is_back(
    process: WorkerProcess,
    door: Door,
    monkeypatch: pytest.MonkeyPatch,
    outage: Callable[[Door], None],
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.2)
    beat(process, monkeypatch, Clock(1))
    outage(door)
    beat(process, monkeypatch, Clock(1))
    assert "Milvus did not answer" in told(process).milvus
    door.open()

    beat(process, monkeypatch, Clock(6000, end_if_milvus_answers(process)))
    assert told(process).milvus == "ok"


def end_if_milvus_answers(process: WorkerProcess) -> Callable[[int], None]:
    def happen(_: int) -> None:
        time.sleep(0.01)
        if told(process).milvus == "ok":
            raise SystemExit

    return happen


def test_a_client_of_milvus_that_is_dead_is_replaced(
    process: WorkerProcess, filled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    process.runtime.vectors._client.close()
    beat(process, monkeypatch, Clock(1))
    assert told(process).milvus != "ok"
    beat(process, monkeypatch, Clock(6000, end_if_milvus_answers(process)))
    assert process.runtime.images.count_vectors("default") == {"phash": len(filled)}


def test_a_client_of_milvus_whose_connection_is_silent_is_replaced(
    process: WorkerProcess,
    filled: list[str],
    door: Door,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As where a firewall has forgotten it. Others reach Milvus."""
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.5)
    door.freeze()
    beat(process, monkeypatch, Clock(1))
    assert told(process).milvus != "ok"
    beat(process, monkeypatch, Clock(6000, end_if_milvus_answers(process)))
    assert "it is replaced" in caplog.text
    assert process.runtime.images.count_vectors("default") == {"phash": len(filled)}


def test_a_client_of_a_milvus_that_is_away_is_kept(
    process: WorkerProcess, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.runtime.vectors.ping(timeout_s=60)
    client = process.runtime.vectors._client
    door.shut()
    for thread in beat_in_vain(process, monkeypatch):
        thread.join()
    door.open()
    assert process.runtime.vectors._client is client
    beat(process, monkeypatch, Clock(6000, end_if_milvus_answers(process)))


def beat_in_vain(process: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """Beats until a new client has been tried. Gives the threads in which it is."""
    before = set(threading.enumerate())
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.2)
    beat(process, monkeypatch, Clock(heartbeat.UNANSWERED))
    assert told(process).milvus != "ok"
    return [one for one in threading.enumerate() if one not in before and one.name == "milvus"]


def test_a_silent_milvus_does_not_make_a_process_count_as_dead(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_s: list[float] = []

    def ping(timeout_s: float) -> None:
        given_s.append(timeout_s)

    monkeypatch.setattr(process.runtime.vectors, "ping", ping)
    clock = Clock(1)
    beat(process, monkeypatch, clock)
    assert clock.now == BEAT_S
    [timeout_s] = given_s
    assert timeout_s + 2 * BEAT_S <= SILENCE_S


def test_it_ends_with_its_process(process: WorkerProcess) -> None:
    assert Heartbeat(process.runtime).daemon
    assert Sweeps(process.runtime, process.celery).daemon
