"""Results of tasks: stored in the round trip that ends their job or counts their chunk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import redis
from support.plain_uploads import IDS, upload
from support.servers import free_port

from twinlens.shared.queries import SearchQuery
from twinlens.shared.redis import keys

if TYPE_CHECKING:
    from support.inside_worker import WorkerProcess
    from support.requests import Client


@pytest.fixture
def commands(process: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the result backend sends to Redis: the names of its commands."""
    sent: list[str] = []
    backend: Any = process.celery.backend
    client = backend.client
    execute = client.execute_command

    def note(*args: Any, **options: Any) -> Any:
        sent.append(str(args[0]))
        return execute(*args, **options)

    monkeypatch.setattr(client, "execute_command", note)
    return sent


def test_a_chunk_is_stored_and_counted_in_one_round_trip(
    client: Client, process: WorkerProcess, commands: list[str]
) -> None:
    job_id = upload(client)
    process.run_next("bulk")
    # The script may not be known there yet.
    assert commands in (["EVALSHA"], ["EVALSHA", "SCRIPT LOAD", "EVALSHA"])
    stored = json.loads(process.runtime.redis.get(keys.result(f"{job_id}.0")) or "")
    assert stored["status"] == "SUCCESS"
    assert [item["outcome"] for item in stored["result"]] == ["succeeded"] * len(stored["result"])
    assert process.runtime.jobs.get(job_id).n_chunks_done == 1


@pytest.mark.usefixtures("filled")
def test_a_search_is_stored_and_ended_in_one_round_trip(
    client: Client, process: WorkerProcess, commands: list[str]
) -> None:
    job_id = client.post("/v1/search", json={"image_id": IDS[0]}).json["id"]
    process.run_next("search")
    assert commands[-1] == "EVALSHA"
    assert "GET" not in commands
    job = process.runtime.jobs.get(job_id)
    assert job.status == "succeeded"
    assert json.loads(job.result or "")["result"]["by_model"].keys() == {"phash"}


@pytest.mark.usefixtures("filled")
def test_what_cannot_be_stored_goes_back_into_its_queue_and_is_run_again(
    client: Client, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = client.post("/v1/search", json={"image_id": IDS[0]}).json["id"]
    backend = process.celery.backend
    nobody = redis.Redis(port=free_port(), socket_connect_timeout=1)
    with monkeypatch.context() as away:
        away.setattr(backend, "client", nobody)
        away.setattr(backend, "max_retries", 1)
        process.run_next("search")
    assert process.runtime.jobs.get(job_id).status == "running"
    assert process.queued("search") == [job_id]
    process.run_next("search")
    assert process.runtime.jobs.get(job_id).status == "succeeded"


def test_what_a_task_returns_is_told_to_the_log_by_its_kind_alone() -> None:
    query = SearchQuery()
    assert "library" in repr(query)
    from twinlens.shared.messages import ChunkItems

    assert repr(ChunkItems([])) == "<ChunkItems>"
