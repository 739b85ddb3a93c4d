"""Names and metadata of images that are there: by posting them again, or by asking for it."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from support.beats import beat
from support.between import before_pipeline, before_transaction
from support.plain_uploads import IDS, PICTURES, job_of, outcomes, upload
from support.requests import assert_problem

from twinlens.api.reading.uploads import MAX_METADATA_BYTES
from twinlens.shared.blobs import image_key
from twinlens.shared.errors import ImageNotFound
from twinlens.shared.filters.language import parse_filter
from twinlens.shared.libraries import NextEdition, new_collection
from twinlens.shared.messages import Description
from twinlens.shared.redis.presence import announce
from twinlens.workers.milvus.vectors import Vectors

if TYPE_CHECKING:
    from support.inside_worker import WorkerProcess
    from support.requests import Client

    from twinlens.models.session import Embeddings, Pixels
    from twinlens.shared.libraries import Library

PHASH = "phash@1"
RED = PICTURES["red.png"]


def post_described(client: Client, *pictures: tuple[str, bytes, dict[str, Any] | None]) -> str:
    """Posts pictures as one bulk job, each with its metadata, if any. Returns its id."""
    files: list[tuple[str, tuple[str | None, bytes, str]]] = []
    for name, content, metadata in pictures:
        if metadata is not None:
            text = json.dumps(metadata).encode()
            files.append(("metadata", (None, text, "application/json")))
        files.append(("files", (name, content, "image/png")))
    body = b"".join(
        b"--b\r\nContent-Disposition: form-data; name=%b%b\r\n\r\n%b\r\n"
        % (part.encode(), b"" if name is None else b'; filename="%b"' % name.encode(), content)
        for part, (name, content, _) in files
    )
    answer = client.post(
        "/v1/images/bulk", data=body + b"--b--\r\n", content_type="multipart/form-data; boundary=b"
    )
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json["id"]
    return job_id


def said_of(client: Client, image_id: str = IDS[0]) -> tuple[str, dict[str, Any]]:
    image = client.get(f"/v1/images/{image_id}").json
    return image["name"], image["metadata"]


def as_told(client: Client, image_id: str = IDS[0]) -> str:
    """Returns a filter that is true of an image that is as the API tells."""
    image = client.get(f"/v1/images/{image_id}").json
    own = ("name", "width", "height", "format", "bytes", "added_at")
    return " and ".join(f"{field} == {json.dumps(image[field])}" for field in own)


def where(process: WorkerProcess, text: str) -> set[str]:
    """Returns the images that Milvus gives for a filter, the same in every edition."""
    runtime = process.runtime
    sets = []
    for edition in runtime.catalog.library("default").editions:
        [target] = runtime.targets.of(edition)
        [row] = runtime.vectors.fetch(target.collection, IDS[:1]).values()
        [near] = runtime.vectors.nearest(target.collection, row[None], 10, parse_filter(text))
        sets.append(set(near))
    assert all(ids == sets[0] for ids in sets)
    return sets[0]


@pytest.fixture
def red(client: Client, process: WorkerProcess) -> str:
    """The red picture, embedded, with a name and metadata."""
    post_described(client, ("red.png", RED, {"year": 2018}))
    process.run_all("bulk")
    return IDS[0]


def change(process: WorkerProcess, **said: Any) -> None:
    process.runtime.amendments.change("default", IDS[0], Description(**said))


def test_a_picture_that_is_posted_again_with_other_metadata_has_these(
    client: Client, process: WorkerProcess, red: str
) -> None:
    job_id = post_described(client, ("crimson.png", RED, {"year": 2019}))
    process.run_all("bulk")
    assert outcomes(client, job_id) == ["updated"]
    progress = job_of(client, job_id)["progress"]
    assert (progress["updated"], progress["skipped"], progress["succeeded"]) == (1, 0, 0)
    assert job_of(client, job_id)["status"] == "succeeded"
    assert said_of(client) == ("crimson.png", {"year": 2019})
    assert where(process, "year == 2019") == {red}
    assert where(process, "year == 2018") == set()
    assert where(process, as_told(client)) == {red}


@pytest.mark.parametrize(
    ("name", "metadata", "outcome", "kept"),
    [
        ("red.png", {"year": 2018}, "skipped", ("red.png", {"year": 2018})),
        ("red.png", {"year": 2018.0}, "skipped", ("red.png", {"year": 2018})),
        # Nothing is said of the metadata: they stay.
        ("red.png", None, "skipped", ("red.png", {"year": 2018})),
        ("a/red.png", None, "updated", ("a/red.png", {"year": 2018})),
        ("red.png", {}, "updated", ("red.png", {})),
        ("red.png", {"year": True}, "updated", ("red.png", {"year": True})),
        ("red.png", {"year": "2018"}, "updated", ("red.png", {"year": "2018"})),
    ],
)
@pytest.mark.usefixtures("red")
def test_what_is_not_said_stays_as_it_is(
    client: Client,
    process: WorkerProcess,
    name: str,
    metadata: dict[str, Any] | None,
    outcome: str,
    kept: tuple[str, dict[str, Any]],
) -> None:
    job_id = post_described(client, (name, RED, metadata))
    process.run_all("bulk")
    assert outcomes(client, job_id) == [outcome]
    assert said_of(client) == kept
    assert type(said_of(client)[1].get("year")) is type(kept[1].get("year"))


def test_of_a_picture_that_comes_twice_the_last_name_is_kept_and_the_same_again_is_skipped(
    client: Client, process: WorkerProcess
) -> None:
    twice = [("a.png", RED, {"n": 1}), ("b.png", PICTURES["blue.png"], None), ("c.png", RED, None)]
    for wanted in (["succeeded", "succeeded", "skipped"], ["skipped"] * 3):
        job_id = post_described(client, *twice)
        process.run_all("bulk")
        assert outcomes(client, job_id) == wanted
        assert said_of(client) == ("c.png", {"n": 1})


@pytest.mark.usefixtures("red")
def test_a_chunk_that_is_run_again_tells_what_it_has_changed(
    client: Client, process: WorkerProcess
) -> None:
    job_id = post_described(client, ("crimson.png", RED, {"year": 2019}))
    runtime = process.runtime
    first = runtime.chunks.run(job_id, 0)  # and before it is counted, its process dies
    process.run_all("bulk")
    assert [item.outcome for item in first] == outcomes(client, job_id) == ["updated"]


@pytest.mark.usefixtures("red")
def test_milvus_and_the_catalogue_tell_the_same_whoever_is_last(
    client: Client, process: WorkerProcess
) -> None:
    before_pipeline(process.runtime.redis, lambda: change(process, metadata={"year": 2020}))
    change(process, metadata={"year": 2019})
    assert said_of(client) == ("red.png", {"year": 2019})
    assert where(process, "year == 2019") == {IDS[0]}
    assert where(process, "year == 2020") == set()


def test_two_that_add_the_same_picture_at_once_agree_on_what_is_said(
    client: Client, process: WorkerProcess
) -> None:
    jobs = [post_described(client, ("red.png", RED, {"year": year})) for year in (2019, 2020)]
    redis = process.runtime.redis
    before_transaction(redis, lambda: process.runtime.chunks.run(jobs[1], 0))
    process.run_next("bulk")
    assert said_of(client) == ("red.png", {"year": 2019})
    assert where(process, "year == 2019") == {IDS[0]}


def test_two_that_add_the_same_picture_at_once_agree_on_when(
    client: Client, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [post_described(client, ("red.png", RED, None)) for _ in range(2)]
    runtime = process.runtime
    [target] = runtime.targets.of(runtime.catalog.library("default"))
    embed = target.model.embed_batch

    def after_the_other(pixels: Pixels) -> Embeddings:
        monkeypatch.setattr(target.model, "embed_batch", embed)
        runtime.chunks.run(jobs[1], 0)
        return embed(pixels)

    monkeypatch.setattr(target.model, "embed_batch", after_the_other)
    runtime.chunks.run(jobs[0], 0)
    assert where(process, as_told(client)) == {IDS[0]}


def test_one_that_adds_what_is_there_and_dies_leaves_what_is_said_as_it_is(
    client: Client, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has written over the rows of the first, and is run again."""
    runtime = process.runtime
    first = post_described(client, ("red.png", RED, {"year": 2018}))
    process.lose("bulk")
    second = post_described(client, ("red.png", RED, None))
    [target] = runtime.targets.of(runtime.catalog.library("default"))
    embed = target.model.embed_batch

    def die() -> None:
        raise SystemExit

    def after_the_other(pixels: Pixels) -> Embeddings:
        monkeypatch.setattr(target.model, "embed_batch", embed)
        runtime.chunks.run(first, 0)
        before_transaction(runtime.redis, die)
        return embed(pixels)

    monkeypatch.setattr(target.model, "embed_batch", after_the_other)
    process.run_next("bulk")
    process.run_next("bulk")
    assert outcomes(client, second) == ["skipped"]
    assert where(process, "year == 2018") == {IDS[0]}
    assert where(process, as_told(client)) == {IDS[0]}


def test_what_is_the_images_own_is_what_the_catalogue_tells(
    client: Client, process: WorkerProcess, red: str
) -> None:
    assert where(process, as_told(client)) == {red}
    assert where(process, 'width < 1 or format == "image/jpeg" or not exists name') == set()


def plan(process: WorkerProcess) -> None:
    """Gives the library another edition to be built."""

    def change(library: Library) -> Library:
        collections = {PHASH: new_collection("default", PHASH)}
        library.next = NextEdition(models=[PHASH], collections=collections, job_id="j")
        return library

    process.runtime.catalog.change_library("default", change)


def test_what_is_embedded_for_one_more_edition_is_the_same_in_both(
    client: Client, process: WorkerProcess
) -> None:
    post_described(client, ("red.png", RED, {"year": 2018}))
    before_transaction(process.runtime.redis, lambda: plan(process))
    process.run_next("bulk")
    assert len(process.runtime.catalog.library("default").editions) == 2
    assert where(process, as_told(client)) == {IDS[0]}


@pytest.mark.usefixtures("red")
def test_what_is_posted_again_while_another_edition_is_built_is_in_both(
    client: Client, process: WorkerProcess
) -> None:
    plan(process)
    job_id = post_described(client, ("crimson.png", RED, {"year": 2019}))
    process.run_next("bulk")
    assert outcomes(client, job_id) == ["updated"]
    assert where(process, "year == 2019") == {IDS[0]}
    assert where(process, "year == 2018") == set()
    assert where(process, as_told(client)) == {IDS[0]}


@pytest.mark.usefixtures("red")
def test_a_change_while_another_edition_is_built_is_in_both(
    client: Client, process: WorkerProcess
) -> None:
    runtime = process.runtime
    plan(process)
    job_id = upload(client)
    before_transaction(runtime.redis, lambda: change(process, metadata={"year": 2020}))
    process.run_next("bulk")
    assert outcomes(client, job_id)[0] == "succeeded"
    assert said_of(client) == ("red.png", {"year": 2020})
    assert where(process, "year == 2020") == {IDS[0]}
    assert where(process, as_told(client)) == {IDS[0]}
    library = runtime.catalog.library("default")
    assert runtime.catalog.get("default", IDS[0]).collections == library.all_collections


@pytest.mark.usefixtures("red")
def test_a_change_is_in_an_edition_that_comes_as_it_is_made(
    client: Client, process: WorkerProcess
) -> None:
    def embed_for_another() -> None:
        plan(process)
        upload(client)
        process.run_next("bulk")

    before_pipeline(process.runtime.redis, embed_for_another)
    change(process, metadata={"year": 2020})
    assert len(process.runtime.catalog.library("default").editions) == 2
    assert where(process, "year == 2020") == {IDS[0]}


def test_an_image_that_is_removed_meanwhile_leaves_nothing_behind(
    client: Client, process: WorkerProcess, red: str
) -> None:
    def remove() -> None:
        client.delete(f"/v1/images/{red}")
        process.run_next("single")

    job_id = post_described(client, ("crimson.png", RED, {"year": 2019}))
    before_pipeline(process.runtime.redis, remove)
    process.runtime.chunks.run(job_id, 0)
    assert client.get(f"/v1/images/{red}").status_code == 404
    assert process.runtime.images.count_vectors("default") == {"phash": 0}


# Asked for.


def ask(client: Client, process: WorkerProcess, image_id: str, said: object) -> Any:
    """Asks for a change, and has the worker make it meanwhile."""
    answers: list[Any] = []
    path = f"/v1/images/{image_id}"
    thread = threading.Thread(target=lambda: answers.append(client.patch(path, json=said)))
    thread.start()
    while thread.is_alive():
        process.run_all("search")
        thread.join(0.01)
    return answers[0]


@pytest.fixture
def searching(process: WorkerProcess) -> None:
    """Has the API see a search worker."""
    announce(process.runtime.redis, beat("search@test:1", time.time(), lanes=["search"]))


@pytest.mark.usefixtures("searching")
def test_a_change_is_asked_for(client: Client, process: WorkerProcess, red: str) -> None:
    answer = ask(client, process, red, {"metadata": {"year": 2021}, "name": "x\u202e\n/y.png"})
    assert answer.status_code == 200, answer.text
    assert (answer.json["name"], answer.json["metadata"]) == ("x/y.png", {"year": 2021})
    assert answer.json["links"]["self"] == f"/v1/images/{red}"
    assert said_of(client) == ("x/y.png", {"year": 2021})
    assert where(process, "year == 2021") == {red}
    assert ask(client, process, red, {"name": "z.png"}).json["metadata"] == {"year": 2021}
    assert ask(client, process, red, {}).json["name"] == "z.png"
    most = {"metadata": {"a": "x" * (MAX_METADATA_BYTES - 8)}}
    assert ask(client, process, red, most).json["metadata"] == most["metadata"]
    assert where(process, as_told(client)) == {red}
    assert where(process, 'name == "x/y.png" or not exists name') == set()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"metadata": {"a": {"b": 1}}}, 422, "validation-failed"),
        ({"name": ""}, 422, "validation-failed"),
        ({"title": "a"}, 422, "validation-failed"),
        ({"metadata": {"a": "x" * (MAX_METADATA_BYTES - 7)}}, 422, "validation-failed"),
        ([], 422, "validation-failed"),
    ],
)
@pytest.mark.usefixtures("searching")
def test_a_change_that_cannot_be_made_is_refused(
    client: Client, red: str, body: object, status: int, code: str
) -> None:
    assert_problem(client.patch(f"/v1/images/{red}", json=body), status, code)
    assert said_of(client) == ("red.png", {"year": 2018})


@pytest.mark.usefixtures("searching")
def test_what_is_not_there_cannot_be_changed(client: Client) -> None:
    assert_problem(client.patch(f"/v1/images/{IDS[0]}", json={}), 404, "image-not-found")


@pytest.mark.usefixtures("searching")
def test_an_image_that_goes_before_the_worker_comes_is_told(
    client: Client, process: WorkerProcess, red: str
) -> None:
    process.runtime.catalog.remove("default", red)
    with pytest.raises(ImageNotFound, match=red):
        change(process, name="a.png")


def test_a_row_that_milvus_has_lost_comes_back_with_what_is_said(
    client: Client, process: WorkerProcess, filled: list[str]
) -> None:
    """As where it was ended while a first try wrote the row, and another process tries again."""
    runtime = process.runtime
    [(_, collection)] = runtime.targets.of(runtime.catalog.library("default"))
    [before] = runtime.vectors.fetch(collection, [filled[0]]).values()
    runtime.vectors.delete(collection, [filled[0]])
    vectors = Vectors(runtime.settings)  # of a process that has not read it
    amendments = replace(runtime.amendments, vectors=vectors)
    amendments.change("default", filled[0], Description(metadata={"year": 2026}))
    assert where(process, "year == 2026") == {filled[0]}
    [after] = Vectors(runtime.settings).fetch(collection, [filled[0]]).values()
    assert (after == before).all()


def test_nothing_is_said_of_a_row_that_cannot_come_back(
    client: Client, process: WorkerProcess, filled: list[str]
) -> None:
    """Its picture is damaged: `reconcile` tells of it."""
    runtime = process.runtime
    [(_, collection)] = runtime.targets.of(runtime.catalog.library("default"))
    runtime.vectors.delete(collection, [filled[0]])
    runtime.blobs.delete(image_key("default", filled[0]))
    amendments = replace(runtime.amendments, vectors=Vectors(runtime.settings))
    amendments.change("default", filled[0], Description(name="new.png"))
    assert said_of(client, filled[0])[0] == "new.png"
    assert runtime.vectors.ids(collection) == set(filled[1:])
