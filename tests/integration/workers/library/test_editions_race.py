"""Pictures that are on their way while their library is changed, at the narrowest places."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.between import before_transaction
from support.embedding import library_id
from support.plain_uploads import IDS, outcomes, upload, upload_one

from twinlens.api.services import EXTENSION
from twinlens.shared.libraries import NextEdition, new_collection

if TYPE_CHECKING:
    from support.inside_worker import WorkerProcess
    from support.requests import Client

    from twinlens.shared.libraries import Library

PHASH = "phash@1"


def plan(process: WorkerProcess) -> None:
    """Gives the default library another edition to be built."""

    def change(library: Library) -> Library:
        collections = {PHASH: new_collection("default", PHASH)}
        library.next = NextEdition(models=[PHASH], collections=collections, job_id="j")
        return library

    process.runtime.catalog.change_library("default", change)


def test_an_edition_that_comes_as_a_chunk_is_counted_has_its_pictures(
    client: Client, process: WorkerProcess
) -> None:
    runtime = process.runtime
    job_id = upload(client)
    before_transaction(runtime.redis, lambda: plan(process))
    process.run_next("bulk")
    library = runtime.catalog.library("default")
    assert len(library.all_collections) == 2
    for edition in library.editions:
        [target] = runtime.targets.of(edition)
        assert runtime.vectors.count(target.collection) == len(IDS)
    entries = runtime.catalog.find("default", IDS)
    assert [entries[one].collections for one in IDS] == [library.all_collections] * len(IDS)
    assert [entries[one].image.models for one in IDS] == [[PHASH]] * len(IDS)
    assert outcomes(client, job_id) == ["succeeded"] * len(IDS)


def test_a_library_that_is_changed_as_its_first_pictures_come_has_them(
    client: Client, process: WorkerProcess
) -> None:
    """An empty one has nothing to embed, and is changed at once."""
    upload(client)
    before_transaction(
        client.application.extensions[EXTENSION].redis, lambda: process.run_next("bulk")
    )
    models = ["phash", "efficientnet-lite0"]
    assert client.put("/v1/libraries/default", json={"models": models}).status_code == 202
    process.run_next("single")
    process.run_all("bulk")
    n_stored = process.runtime.images.count_vectors("default")
    assert n_stored == dict.fromkeys(models, len(IDS))


@pytest.mark.parametrize("is_planned", [False, True], ids=["weights", "edition given up"])
def test_a_library_that_needs_no_more_as_a_chunk_is_counted_has_its_pictures(
    client: Client, process: WorkerProcess, *, is_planned: bool
) -> None:
    """What they are embedded for changes, and they have all of it already."""
    if is_planned:
        plan(process)
    job_id = upload(client)

    def change() -> None:
        if is_planned:
            client.post("/v1/libraries/default/rollback")
        else:
            client.put("/v1/libraries/default", json={"models": [PHASH], "weights": {"phash": 2}})

    before_transaction(process.runtime.redis, change)
    process.run_next("bulk")
    assert outcomes(client, job_id) == ["succeeded"] * len(IDS)
    assert process.runtime.catalog.find("default", IDS).keys() == set(IDS)


def test_a_library_that_is_removed_as_a_chunk_is_counted_gets_no_images(
    client: Client, process: WorkerProcess
) -> None:
    runtime = process.runtime
    assert client.put("/v1/libraries/art", json={"models": ["phash"]}).status_code == 201
    job_id = upload(client, "art")
    before_transaction(runtime.redis, lambda: client.delete("/v1/libraries/art"))
    process.run_next("bulk")
    assert outcomes(client, job_id) == ["failed"] * len(IDS)
    assert client.put("/v1/libraries/art", json={"models": ["phash"]}).status_code == 201
    assert client.get("/v1/images?library=art").json["items"] == []
    assert runtime.catalog.cost_s(library_id(runtime, "art")) is None


@pytest.mark.parametrize("is_planned", [False, True])
def test_a_picture_that_is_removed_as_it_is_counted_again_stays_removed(
    client: Client, process: WorkerProcess, filled: list[str], *, is_planned: bool
) -> None:
    """It was embedded for an edition that it lacked, and then there may be one more."""
    runtime = process.runtime
    plan(process)
    job_id = upload_one(client)

    def remove() -> None:
        client.delete(f"/v1/images/{filled[0]}")
        process.run_next("single")
        if is_planned:
            plan(process)

    before_transaction(runtime.redis, remove)
    process.run_next("single")
    assert outcomes(client, job_id) == ["succeeded"]
    assert client.get(f"/v1/images/{filled[0]}").status_code == 404
    for edition in runtime.catalog.library("default").editions:
        [target] = runtime.targets.of(edition)
        assert filled[0] not in runtime.vectors.fetch(target.collection, [filled[0]])
