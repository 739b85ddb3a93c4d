"""What a process tells of itself, and what it does so that its lane is proven to work."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from support.plain_uploads import upload
from support.tiny_pair import pair_card, picture_graph, text_graph, tokenizer_file

from twinlens.shared.errors import ModelRefused, Unavailable
from twinlens.shared.libraries import new_library
from twinlens.shared.queue import PROBE
from twinlens.shared.redis import keys
from twinlens.shared.redis.presence import PROBE_S, live_workers
from twinlens.workers.process import lanes
from twinlens.workers.process.heartbeat import Heartbeat
from twinlens.workers.process.lanes import LaneProbes

if TYPE_CHECKING:
    from pathlib import Path

    from support.doors import Door
    from support.inside_worker import WorkerProcess
    from support.requests import Client

    from twinlens.shared.messages import WorkerStatus


def told(process: WorkerProcess) -> WorkerStatus:
    """Returns what the process says of itself now."""
    Heartbeat(process.runtime).go_round()
    [status] = live_workers(process.runtime.redis)
    return status


def probe(process: WorkerProcess) -> WorkerStatus:
    process.celery.send_task(PROBE, queue="single")
    process.run_next("single")
    return told(process)


def test_a_process_tells_how_long_its_task_may_still_take_and_how_long_it_is_idle(
    client: Client, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (told(process).idle_s, told(process).task_left_s) == (None, None)
    during: list[Any] = []
    write = process.runtime.vectors.upsert

    def tell_and_write(*row: Any) -> None:
        during.append(told(process))
        write(*row)

    monkeypatch.setattr(process.runtime.vectors, "upsert", tell_and_write)
    upload(client)
    process.run_next("bulk")
    [status] = during
    assert status.idle_s is None
    assert 0 < status.task_left_s <= process.celery.conf.task_time_limit
    after = told(process)
    assert after.task_left_s is None
    assert after.idle_s is not None
    assert after.idle_s >= 0


def refuse(*_: Any) -> None:
    raise Unavailable("Milvus is not itself.")


def test_a_probe_proves_a_process_and_is_no_work(process: WorkerProcess) -> None:
    status = probe(process)
    assert (status.probe, status.fault) == ("ok", None)
    assert status.idle_s is not None
    assert process.runtime.counts.n_tasks == 0
    assert process.runtime.redis.hlen(keys.UNACKED) == 0


def test_a_probe_tells_that_milvus_cannot_be_read(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.runtime.warm_up()
    with monkeypatch.context() as patch:
        patch.setattr(process.runtime.vectors, "fetch", refuse)
        assert probe(process).fault == "Milvus is not itself."
    assert probe(process).fault is None


@pytest.mark.parametrize("milvus_timeout_s", [0.2])
def test_a_probe_does_not_wait_for_a_milvus_that_is_known_to_be_away(
    process: WorkerProcess, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinlens.workers.process.heartbeat.BEAT_S", 0.2)
    process.runtime.warm_up()
    door.hush()
    assert "It cannot reach Milvus" in str(told(process).fault)
    monkeypatch.setattr(process.runtime.vectors, "fetch", refuse)
    assert probe(process).probe == "ok"


def test_what_a_library_lacks_is_no_fault_of_a_process(process: WorkerProcess) -> None:
    process.runtime.warm_up()
    process.runtime.redis.delete(keys.LIBRARIES)
    assert probe(process).fault is None
    process.runtime.catalog.ensure_library(new_library("default", ["gone@1"]))
    assert probe(process).fault is None


def test_a_model_that_was_refused_counts_as_missing_until_its_file_is_another(
    process: WorkerProcess, models_dir: Path
) -> None:
    own = process.runtime.settings.models_dir
    own.unlink()
    shutil.copytree(models_dir, own)
    card = process.runtime.registry.add(
        pair_card(), picture_graph(), (text_graph(), tokenizer_file())
    )
    file = own / card.file
    right = file.read_bytes()
    file.write_bytes(right + b"x")
    process.runtime.publish()
    assert card.ref in process.runtime.catalog.models(), "nobody has tried it"
    with pytest.raises(ModelRefused):
        process.runtime.targets.of(new_library("art", [card.ref]))
    process.runtime.publish()
    assert card.ref not in process.runtime.catalog.models()
    file.write_bytes(right)
    os.utime(file, ns=(1, 1))  # whatever the clock's ticks are
    process.runtime.publish()
    assert card.ref in process.runtime.catalog.models()
    process.runtime.targets.of(new_library("art", [card.ref]))
    file.unlink()
    process.runtime.publish()
    assert card.ref in process.runtime.catalog.models(), "it is open"


class Clock:
    """Time as the lanes see it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


def test_an_idle_process_queues_a_probe_and_then_waits(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(lanes, "time", clock)
    probes = LaneProbes(process.runtime, process.celery)
    probes.go_round()
    assert len(process.queued("single")) == 1
    clock.now += 10 * PROBE_S
    probes.go_round()
    assert len(process.queued("single")) == 1, "one waits already"
    process.run_next("single")
    probes.go_round()
    assert process.queued("single") == [], "a task has just ended"


def test_a_probe_that_another_process_took_is_not_followed_at_once_by_the_next(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(lanes, "time", clock)
    probes = LaneProbes(process.runtime, process.celery)
    for pause_s, n_probes in ((0.0, 1), (PROBE_S / 2, 0), (PROBE_S / 2, 1)):
        clock.now += pause_s
        probes.go_round()
        assert len(process.queued("single")) == n_probes
        process.runtime.redis.delete("single")


def test_no_probe_is_queued_where_work_waits_or_is_done(
    client: Client, process: WorkerProcess
) -> None:
    probes = LaneProbes(process.runtime, process.celery)
    upload(client)
    probes.go_round()
    assert process.queued("single") == []
    process.runtime.redis.delete("bulk")
    process.runtime.health.begin_task(60)
    probes.go_round()
    assert process.queued("single") == []
