"""A real worker with a process that is killed, and a Redis that is restarted under it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import psutil
import pytest
from support.doors import Door, door_to
from support.inside_worker import serve_only
from support.plain_uploads import codes, job_of, outcomes, upload, upload_one
from support.requests import client_of, post
from support.servers import free_port, running_valkey, running_worker, wait_until
from support.tiny_pair import plain_picture

from twinlens.shared.blobs import image_id_of, image_key
from twinlens.shared.redis.client import connect
from twinlens.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.requests import Client


class Valkey:
    """One that can be stopped, and started with what it had."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._running = contextlib.ExitStack()

    def start(self) -> None:
        self._running.enter_context(running_valkey(self._folder, self._port))

    def stop(self) -> None:
        self._running.close()


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    valkey = Valkey(tmp_path_factory.mktemp("own-valkey"))
    valkey.start()
    yield valkey
    valkey.stop()


@pytest.fixture(scope="module")
def door(lite_uri: str) -> Iterator[Door]:
    with door_to(lite_uri) as door:
        yield door


@pytest.fixture(scope="module")
def settings(
    valkey: Valkey, door: Door, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    settings = Settings(
        redis_url=valkey.url,
        milvus_uri=f"http://127.0.0.1:{door.port}",
        milvus_timeout_s=60,
        data_dir=tmp_path_factory.mktemp("data"),
        chunk_items=4,
        worker_grace_s=1,
        decode_time_limit_s=2,
    )
    settings.models_dir.symlink_to(models_dir)
    return settings


@pytest.fixture(scope="module")
def worker(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[psutil.Process]:
    with connect(settings.redis_url) as redis:
        serve_only(redis, "phash@1")
    with running_worker(settings, tmp_path_factory.mktemp("worker")) as worker:
        yield worker


@pytest.fixture
def client(settings: Settings, worker: psutil.Process) -> Client:
    return client_of(settings)


def ended(client: Client, job_id: str) -> bool:
    return job_of(client, job_id)["finished_at"] is not None


def test_it_takes_pictures_from_both_queues_and_gives_way_to_searches(
    client: Client, worker: psutil.Process
) -> None:
    jobs = [upload(client), upload_one(client)]
    wait_until(lambda: all(ended(client, job_id) for job_id in jobs), 60)
    assert {job_of(client, job_id)["status"] for job_id in jobs} == {"succeeded"}
    own = psutil.Process().nice()
    for process in (worker, *worker.children()):
        assert process.nice() == min(own + 10, 19)
    assert len(worker.children()) == 1


def test_a_picture_that_kills_its_process_is_given_up_and_the_others_are_not(
    client: Client, worker: psutil.Process, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    colours = ("white", "black", "yellow")
    pictures = [(f"{colour}.png", plain_picture(colour)) for colour in colours]
    guilty = image_id_of(pictures[1][1]).encode()

    def kill(sent: bytes) -> None:
        if guilty in sent:
            for process in worker.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
                    killed.append(process.pid)

    monkeypatch.setattr(door, "on_sent", kill)
    job_id = post(client, pictures)
    wait_until(lambda: ended(client, job_id), 120)
    assert codes(client, job_id) == [None, "crashed", None]
    assert outcomes(client, job_id) == ["succeeded", "failed", "succeeded"]
    assert len(set(killed)) == 3


def test_a_picture_whose_decoding_hangs_is_given_up_long_before_the_time_limit_of_its_chunk(
    client: Client, worker: psutil.Process, settings: Settings
) -> None:
    pictures = [(f"{colour}.png", plain_picture(colour)) for colour in ("pink", "grey", "gold")]
    guilty = settings.blob_dir / image_key("default", image_id_of(pictures[1][1]))
    processes = [worker, *worker.children()]
    for process in processes:
        process.suspend()
    job_id = post(client, pictures)
    guilty.unlink()
    os.mkfifo(guilty)  # whoever opens it waits for ever
    for process in processes:
        process.resume()
    wait_until(lambda: ended(client, job_id), settings.chunk_time_limit_s / 2)
    assert codes(client, job_id) == [None, "crashed", None]
    assert not processes[1].is_running()
    guilty.unlink()


def test_pictures_outlive_a_restart_of_redis(client: Client, valkey: Valkey, door: Door) -> None:
    door.hush()
    job_id = post(client, [(f"{n}.png", plain_picture(f"#{n:06x}")) for n in range(1, 21)])
    with connect(valkey.url) as redis:
        wait_until(lambda: redis.hlen("unacked") > 0, 60)
    valkey.stop()
    door.open()
    valkey.start()
    wait_until(lambda: ended(client, job_id), 120)
    assert outcomes(client, job_id) == ["succeeded"] * 20
