"""A journal stays as short as its library, and says what it said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.clocks import Clock
from support.plain_uploads import IDS, upload
from support.reconciled import check, reconcile

from twinlens.shared import journal
from twinlens.shared.blobs import journal_key
from twinlens.shared.journal import JournalLine
from twinlens.shared.messages import Description
from twinlens.shared.redis import keys

if TYPE_CHECKING:
    from support.inside_worker import WorkerProcess
    from support.requests import Client

N_CHANGES = 30


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "LEAST_BYTES", 3_000)


def sweep(process: WorkerProcess) -> None:
    process.runtime.redis.delete(keys.SWEEP)
    process.runtime.sweeper.sweep(process.celery)


def lines_of(process: WorkerProcess) -> list[JournalLine]:
    return list(process.runtime.images.journal.read("default"))


def n_bytes(process: WorkerProcess) -> int:
    return process.runtime.blobs.size(journal_key("default"))


def records(client: Client) -> list[dict[str, Any]]:
    return sorted(client.get("/v1/images").json["items"], key=lambda one: str(one["id"]))


def change_often(process: WorkerProcess) -> None:
    for number in range(N_CHANGES):
        news = {"metadata": {"number": number, "before": n_bytes(process)}}
        process.runtime.amendments.change("default", IDS[0], Description.model_validate(news))


def remove(client: Client, process: WorkerProcess, image_id: str) -> None:
    client.delete(f"/v1/images/{image_id}")
    process.run_all("single")


def test_what_is_said_again_and_again_is_kept_once(client: Client, process: WorkerProcess) -> None:
    upload(client)
    process.run_all("bulk")
    remove(client, process, IDS[2])
    change_often(process)
    assert len(lines_of(process)) == N_CHANGES + 1
    sweep(process)
    assert {line.image_id for line in lines_of(process)} == {IDS[0], IDS[2]}
    assert len(lines_of(process)) == 2

    before = records(client)
    process.runtime.redis.flushall()
    process.runtime.publish()
    reconcile(client, process)
    assert records(client) == before, "the removed one, too, stays away"
    assert check(client, process) == {}


def test_it_is_folded_anew_only_when_it_is_twice_as_long(
    client: Client, process: WorkerProcess
) -> None:
    upload(client)
    process.run_all("bulk")
    change_often(process)
    sweep(process)
    assert n_bytes(process) < 1_000
    change_often(process)
    sweep(process)
    assert n_bytes(process) < 1_000
    process.runtime.images.journal.append("default", lines_of(process))
    folded = n_bytes(process)
    sweep(process)
    assert n_bytes(process) == folded


def test_a_removal_is_remembered_as_long_as_a_manifest_tells_of_the_image(
    client: Client, process: WorkerProcess, clock: Clock
) -> None:
    upload(client)
    process.run_all("bulk")
    remove(client, process, IDS[2])
    change_often(process)
    clock.ahead_s = 3_600
    sweep(process)
    assert IDS[2] in {line.image_id for line in lines_of(process)}

    clock.ahead_s += process.runtime.settings.job_ttl_s
    sweep(process)  # its manifest goes
    change_often(process)
    sweep(process)
    assert {line.image_id for line in lines_of(process)} == {*IDS[:2]}
    assert check(client, process) == {}
