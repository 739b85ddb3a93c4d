"""What Milvus has lost is seen: its pictures are neither found nor posted again for nothing."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from pymilvus import MilvusClient
from support.plain_uploads import IDS, ending, job_of, upload

from twinlens.shared.errors import Unavailable
from twinlens.shared.libraries import Damage
from twinlens.workers.library import damages

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.inside_worker import WorkerProcess
    from support.requests import Client


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damages, "LOOK_PAUSE_S", 0)


def damage_of(process: WorkerProcess) -> Damage | None:
    process.runtime.sweeper.damages.look()
    return process.runtime.catalog.damage("default")


def drop(milvus: MilvusClient, collection: str) -> None:
    milvus.drop_collection(collection)


def empty(milvus: MilvusClient, collection: str) -> None:
    milvus.delete(collection, ids=IDS)


def lose_one(milvus: MilvusClient, collection: str) -> None:
    milvus.delete(collection, ids=IDS[:1])


def lose_in(process: WorkerProcess, uri: str, lose: Callable[[MilvusClient, str], None]) -> None:
    [collection] = process.runtime.catalog.library("default").all_collections
    milvus = MilvusClient(uri)
    lose(milvus, collection)
    milvus.close()


def ask(client: Client, process: WorkerProcess, path: str, **asked: Any) -> tuple[str, str | None]:
    answer = client.post(path, json=asked)
    assert answer.status_code == 202, answer.text
    process.run_all("search")
    process.run_all("single")
    return ending(client, answer.json["id"])


def give_back(process: WorkerProcess) -> None:
    runtime = process.runtime
    [(model, collection)] = runtime.targets.of(runtime.catalog.library("default"))
    for image_id in IDS:
        _, pixels = runtime.images.decoder.decode(runtime.images.read("default", image_id), [model])
        rows = model.embed_batch(pixels[0][None])
        runtime.vectors.upsert(collection, [image_id], rows, [{}])


def test_a_library_that_is_emptied_and_filled_again_between_two_counts_is_whole(
    process: WorkerProcess, filled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = process.runtime.vectors
    count, n_counts = vectors.count_stored, itertools.count()
    monkeypatch.setattr(vectors, "count_stored", lambda name: count(name) if next(n_counts) else 0)
    assert damage_of(process) is None
    assert next(n_counts) == 2, "it was looked at once more, and then no more"


def test_a_library_that_is_whole_by_now_is_searched_though_it_is_told_to_be_damaged(
    client: Client, process: WorkerProcess, filled: list[str]
) -> None:
    """As where somebody looked before it was mended, and told of it afterwards."""
    runtime = process.runtime
    lost = Damage(n_images=len(IDS), n_vectors={"phash@1": 0})
    runtime.catalog.put_damages({runtime.catalog.library("default").id: lost})
    assert ask(client, process, "/v1/search", image_id=filled[0]) == ("succeeded", None)
    assert ask(client, process, "/v1/duplicates") == ("succeeded", None)


@pytest.mark.parametrize("lose", [drop, empty])
def test_a_library_whose_embeddings_are_lost_is_seen_and_not_searched(
    client: Client,
    process: WorkerProcess,
    filled: list[str],
    lite_uri: str,
    lose: Callable[[MilvusClient, str], None],
) -> None:
    assert damage_of(process) is None
    assert ask(client, process, "/v1/search", image_id=filled[0]) == ("succeeded", None)
    lose_in(process, lite_uri, lose)
    assert damage_of(process) == Damage(n_images=len(IDS), n_vectors={"phash@1": 0})
    damaged = ("failed", "library-damaged")
    assert ask(client, process, "/v1/search", image_id=filled[0]) == damaged
    assert ask(client, process, "/v1/duplicates") == damaged
    assert client.post("/v1/images", data=b"x", content_type="image/png").status_code == 503

    # Whoever gives them back need not tell anybody; a task that fails for it is tried again.
    if lose is drop:
        with pytest.raises(Unavailable, match="collection not found"):
            give_back(process)
    give_back(process)
    assert damage_of(process) is None
    assert ask(client, process, "/v1/search", image_id=filled[0]) == ("succeeded", None)


def test_an_empty_library_has_lost_nothing(process: WorkerProcess) -> None:
    assert damage_of(process) is None


@pytest.mark.usefixtures("filled")
def test_a_picture_that_is_missing_is_no_loss_of_a_library(
    process: WorkerProcess, lite_uri: str
) -> None:
    lose_in(process, lite_uri, lose_one)
    assert damage_of(process) is None


def test_what_redis_has_lost_is_told_again_and_pictures_are_taken(
    client: Client, process: WorkerProcess
) -> None:
    process.runtime.redis.flushall()
    assert client.post("/v1/images", data=b"x", content_type="image/png").status_code == 503
    process.runtime.publish()
    job_id = upload(client)
    process.run_all("bulk")
    assert job_of(client, job_id)["status"] == "succeeded"
