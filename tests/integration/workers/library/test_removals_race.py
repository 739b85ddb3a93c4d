"""Pictures are posted just as the same ones are removed: all or nothing is there of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.workers.library.test_editions_race import plan
from support.between import before_transaction
from support.plain_uploads import IDS, outcomes, upload

if TYPE_CHECKING:
    import pytest
    from support.inside_worker import WorkerProcess
    from support.requests import Client


def test_pictures_that_are_removed_before_they_are_catalogued_are_not(
    client: Client, process: WorkerProcess
) -> None:
    """Their rows and their bytes are gone, and of their records there were none to be removed."""
    job_id = upload(client)

    def remove() -> None:
        assert client.post("/v1/images/delete", json={"ids": IDS}).status_code == 202
        process.run_next("single")
        process.run_next("bulk")

    before_transaction(process.runtime.redis, remove)
    process.run_all("bulk")
    assert outcomes(client, job_id) == ["failed"] * len(IDS)
    assert process.runtime.catalog.count("default") == 0
    assert process.runtime.images.count_vectors("default") == {"phash": 0}


def test_a_removal_that_is_run_again_leaves_what_was_posted_since(
    client: Client, process: WorkerProcess, filled: list[str]
) -> None:
    """As where its message comes back, because a worker was slow to say that it is done."""
    job_id = client.post("/v1/images/delete", json={"ids": filled[:2]}).json["id"]
    process.run_next("single")
    process.run_next("bulk")
    again = upload(client)
    process.run_all("bulk")
    assert outcomes(client, again) == ["succeeded", "succeeded", "skipped"]
    process.runtime.chunks.run(job_id, 0)
    assert process.runtime.catalog.count("default") == len(IDS)
    assert process.runtime.images.count_vectors("default") == {"phash": len(IDS)}
    assert all(process.runtime.images.read("default", one) for one in IDS)


def test_a_picture_that_is_posted_again_as_its_rows_are_removed_once_more_has_them(
    client: Client, process: WorkerProcess, filled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are, where there is more than one edition."""
    plan(process)
    really_remove = process.runtime.catalog.remove

    def remove_and_post(*ids: str) -> None:
        monkeypatch.setattr(process.runtime.catalog, "remove", really_remove)
        really_remove(*ids)
        upload(client)
        process.run_next("bulk")

    client.delete(f"/v1/images/{filled[0]}")
    monkeypatch.setattr(process.runtime.catalog, "remove", remove_and_post)
    process.run_next("single")
    process.run_all("bulk")
    library = process.runtime.catalog.library("default")
    for edition in library.editions:
        [target] = process.runtime.targets.of(edition)
        n_stored = process.runtime.vectors.count(target.collection)
        assert n_stored == process.runtime.catalog.count("default") == len(IDS)
