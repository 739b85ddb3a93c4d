"""What the tasks do, in this process, on the real Valkey, Milvus and models."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from support.embedding import delete_image, embed, names_of, outcomes, set_anew, targets_of
from support.every_milvus import on_every_milvus
from support.photos import NAMES
from support.requests import Client, counts, post
from support.servers import wait_until
from support.tiny_pair import (
    COLOURS,
    pair_card,
    picture_graph,
    plain_picture,
    text_graph,
    tokenizer_file,
)

from twinlens.models.pictures import open_picture
from twinlens.shared.blobs import image_id_of, image_key, thumbnail_key
from twinlens.shared.errors import ContentMissing, ImageNotFound, ModelNotFound
from twinlens.shared.queries import SearchQuery
from twinlens.shared.redis import keys
from twinlens.shared.settings import Settings
from twinlens.workers.decoding import Decoder
from twinlens.workers.process.runtime import Runtime
from twinlens.workers.query.examples import NumSent


@on_every_milvus
def test_a_repeated_chunk_has_the_same_outcomes(
    client: Client, runtime: Runtime, small_photos: dict[str, bytes]
) -> None:
    coffee = small_photos["coffee.png"]
    files = [("a.jpg", coffee), ("again.jpg", coffee), ("text.jpg", b"no picture")]
    job_id = post(client, files)
    first = embed(runtime, job_id)
    assert [item.outcome for item in first] == ["succeeded", "skipped", "failed"]
    assert first[2].error is not None
    assert first[2].error.status == 415
    assert embed(runtime, job_id) == first
    assert runtime.images.count_vectors("default") == dict.fromkeys(names_of(runtime), 1)


@on_every_milvus
def test_what_the_library_has_is_skipped(
    client: Client,
    runtime: Runtime,
    library: dict[str, str],
    small_photos: dict[str, bytes],
) -> None:
    assert len(library) == len(NAMES)
    assert outcomes(runtime, post(client, list(small_photos.items()))) == ["skipped"] * 4


def test_a_picture_that_was_removed_before_its_turn_fails_alone(
    client: Client, runtime: Runtime, small_photos: dict[str, bytes]
) -> None:
    job_id = post(client, list(small_photos.items()))
    gone = image_id_of(small_photos["rocket.jpg"])
    runtime.blobs.delete(image_key("default", gone))
    items = embed(runtime, job_id)
    assert [item.outcome for item in items] == ["succeeded"] * 3 + ["failed"]
    assert items[3].error is not None
    assert items[3].error.type.endswith(":content-missing")


@on_every_milvus
def test_a_search_shows_each_models_distance_of_every_hit(
    runtime: Runtime, library: dict[str, str], small_photos: dict[str, bytes]
) -> None:
    runtime.sent_pictures.set(keys.query_picture("q"), small_photos["coffee.png"])
    result = runtime.searches.search("q", SearchQuery(), time.time(), NumSent(1))
    assert [hit.rank for hit in result.hits] == [1, 2, 3, 4]
    assert result.hits[0].image.id == library["coffee.png"]
    for hit in result.hits:
        assert set(hit.models) == set(names_of(runtime))
    for name, ranking in result.by_model.items():
        assert ranking[0].image_id == library["coffee.png"], name
        assert ranking[0].distance == pytest.approx(0, abs=1e-4)
        assert [one.distance for one in ranking] == sorted(one.distance for one in ranking)


@on_every_milvus
def test_a_search_with_a_stored_image_leaves_it_out(
    runtime: Runtime, library: dict[str, str]
) -> None:
    query = SearchQuery(image_id=library["coffee.png"], models=["efficientnet-lite0"], k=2)
    result = runtime.searches.search("q", query, time.time())
    assert len(result.hits) == 2
    assert library["coffee.png"] not in {hit.image.id for hit in result.hits}
    assert set(result.by_model) == {"efficientnet-lite0"}
    assert result.agreement.overlap_at_k is None


def test_a_search_that_cannot_be_done_says_why(runtime: Runtime) -> None:
    with pytest.raises(ModelNotFound, match="nonesuch"):
        runtime.searches.search("q", SearchQuery(models=["nonesuch"]), time.time())
    with pytest.raises(ImageNotFound):
        runtime.searches.search("q", SearchQuery(image_id="0" * 64), time.time())


@on_every_milvus
def test_words_find_pictures_under_the_models_that_understand_them(
    client: Client, runtime: Runtime, tmp_path: Path
) -> None:
    (tmp_path / "models").unlink()
    runtime.registry.add(pair_card(), picture_graph(), (text_graph(), tokenizer_file()))
    runtime.publish()
    plan = {"models": ["colours"]}
    assert client.put("/v1/libraries/plain", json=plan).status_code == 201
    files = [(colour, plain_picture(colour)) for colour in COLOURS]
    job_id = post(client, files, library="plain")
    assert outcomes(runtime, job_id) == ["succeeded"] * 3
    for colour in COLOURS:
        query = SearchQuery(library="plain", text=f"something {colour}", k=3)
        result = runtime.searches.search("q", query, time.time())
        assert result.hits[0].image.name == colour
        assert result.timing_ms.decode == 0


def test_the_weights_of_a_library_count(
    client: Client, runtime: Runtime, library: dict[str, str], small_photos: dict[str, bytes]
) -> None:
    runtime.sent_pictures.set(keys.query_picture("q"), small_photos["coffee.png"])
    names = names_of(runtime)
    for favourite in names:
        weights = {name: float(name == favourite) for name in names}
        plan = {"models": names, "weights": weights}
        assert client.put("/v1/libraries/default", json=plan).status_code == 200
        result = runtime.searches.search("q", SearchQuery(), time.time(), NumSent(1))
        for hit in result.hits:
            assert hit.score == pytest.approx(hit.models[favourite].score)


def remove(client: Client, runtime: Runtime, image_id: str) -> None:
    job_id = client.delete(f"/v1/images/{image_id}").json["id"]
    delete_image(runtime, job_id, image_id)


@on_every_milvus
def test_a_removed_image_is_gone_everywhere(
    client: Client, runtime: Runtime, library: dict[str, str]
) -> None:
    gone = library["chelsea.png"]
    runtime.images.make_thumbnail("default", gone)
    remove(client, runtime, gone)
    assert client.get(f"/v1/images/{gone}").status_code == 404
    assert runtime.images.count_vectors("default") == dict.fromkeys(names_of(runtime), 3)
    for key in (image_key("default", gone), thumbnail_key("default", gone)):
        with pytest.raises(FileNotFoundError):
            runtime.blobs.get(key)


def test_a_thumbnail_is_small_and_carries_no_metadata(
    runtime: Runtime, library: dict[str, str]
) -> None:
    runtime.images.make_thumbnail("default", library["rocket.jpg"])
    content = runtime.blobs.get(thumbnail_key("default", library["rocket.jpg"]))
    picture = open_picture(content)
    assert max(picture.width, picture.height) <= 256
    assert b"Exif" not in content
    with pytest.raises(ImageNotFound):
        runtime.images.make_thumbnail("default", "0" * 64)
    runtime.blobs.delete(image_key("default", library["rocket.jpg"]))
    with pytest.raises(ContentMissing):
        runtime.images.make_thumbnail("default", library["rocket.jpg"])


def test_wait_returns_as_soon_as_the_job_has_ended(
    client: Client, runtime: Runtime, small_photos: dict[str, bytes]
) -> None:
    job_id = post(client, list(small_photos.items()))
    assert client.get(f"/v1/jobs/{job_id}").json["status"] == "queued"
    runtime.jobs.start(job_id)
    embed(runtime, job_id)
    wait_until(lambda: runtime.jobs.wait(job_id, 0).has_ended, 5)
    job = client.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=30"}).json
    assert job["status"] == "succeeded"
    assert counts(job) == {"total": 4, "succeeded": 4, "skipped": 0, "failed": 0}


def test_a_search_is_reranked_unless_it_is_asked_not_to_be(
    runtime: Runtime, library: dict[str, str], small_photos: dict[str, bytes]
) -> None:
    runtime.sent_pictures.set(keys.query_picture("q"), small_photos["coffee.png"])
    plain = runtime.searches.search("q", SearchQuery(rerank="none"), time.time(), NumSent(1))
    scores = [hit.score for hit in plain.hits]
    assert scores == sorted(scores, reverse=True)
    result = runtime.searches.search("q", SearchQuery(), time.time(), NumSent(1))
    assert result.hits[0].image.id == plain.hits[0].image.id
    assert {hit.image.id: hit.score for hit in result.hits} == {
        hit.image.id: hit.score for hit in plain.hits
    }
    assert [hit.rank for hit in result.hits] == list(range(1, len(plain.hits) + 1))
    assert result.by_model == plain.by_model


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'")
def test_a_gpu_takes_real_batches_with_the_same_outcome(
    client: Client, settings: Settings, runtime: Runtime, small_photos: dict[str, bytes]
) -> None:
    """Without a GPU, onnxruntime goes on to the next provider; all before it is the same."""
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    gpu = set_anew(runtime, execution_providers=providers)
    job_id = post(client, list(small_photos.items()))
    items = embed(gpu, job_id)
    assert [item.outcome for item in items] == ["succeeded"] * 4
    for model, collection in targets_of(gpu):
        for content in small_photos.values():
            image_id = image_id_of(content)
            _, pixels = Decoder(settings.max_picture_px).decode(content, [model])
            [alone] = model.embed_batch(pixels[0][None])
            stored = gpu.vectors.fetch(collection, [image_id])[image_id]
            assert stored == pytest.approx(alone, abs=1e-5)


def test_listed_pictures_are_fetched_and_stored(
    client: Client, settings: Settings, runtime: Runtime, small_photos: dict[str, bytes]
) -> None:
    folder = settings.data_dir / "listed"
    folder.mkdir()
    for name, content in small_photos.items():
        (folder / name).write_bytes(content)
    paths = [folder / "coffee.png", settings.data_dir / "outside", folder / "coffee.png"]
    lines = [json.dumps({"uri": path.as_uri()}) for path in paths]
    answer = client.post(
        "/v1/images/bulk", data="\n".join(lines), content_type="application/x-ndjson"
    )
    job_id = answer.json["id"]
    reading = set_anew(runtime, allowed_roots=[folder])
    for expected in (["succeeded", "failed", "skipped"],) * 2:  # a repeat says the same
        items = embed(reading, job_id)
        assert [item.outcome for item in items] == expected
    coffee = image_id_of(small_photos["coffee.png"])
    assert [item.image_id for item in items] == [coffee, None, coffee]
    assert items[1].error is not None
    assert items[1].error.type.endswith(":source-refused")
    assert runtime.blobs.get(image_key("default", coffee)) == small_photos["coffee.png"]
