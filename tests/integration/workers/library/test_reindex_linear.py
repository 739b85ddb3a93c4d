"""A library gets a version of a model that is a linear map of the one it has: without pictures."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from support.embedding import library_id, outcomes, set_anew
from support.every_milvus import on_every_milvus
from support.known_library import COLOURS, TINT, make_shelf
from support.requests import Client, post
from support.tiny_pair import plain_picture

from twinlens.models.build.linear import LinearMap, add_linear_map
from twinlens.models.card import Original
from twinlens.models.pictures import open_picture
from twinlens.models.registry import Registry
from twinlens.shared.blobs import image_id_of, image_key
from twinlens.shared.chunking import MAX_CHUNK_ITEMS
from twinlens.shared.queue import make_celery

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from twinlens.workers.process.runtime import Runtime

NAMES = ("red", "orange", "green", "blue", "pink")
IDS = [image_id_of(plain_picture(name)) for name in NAMES]
OLD, TUNED = f"{COLOURS}@1", f"{COLOURS}@1-tuned"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny models, a version of one that is made of it, and one that is said to be."""
    registry = Registry(make_shelf(tmp_path_factory.mktemp("shelf") / "models"))
    numbers = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    card, model = registry.read(OLD)
    tuned = add_linear_map(model, LinearMap(numbers[0], numbers[1:]))
    origin = Original(ref=card.ref, sha256=card.sha256)
    made = card.model_copy(update={"version": "1-tuned", "text": None, "linear_of": origin})
    registry.add(made, tuned)
    other = Original(ref=card.ref, sha256="0" * 64)
    registry.add(made.model_copy(update={"version": "1-other", "linear_of": other}), tuned)
    return registry.directory


@pytest.fixture
def runtime(runtime: Runtime, shelf: Path) -> Runtime:
    runtime.settings.models_dir.unlink()
    runtime.settings.models_dir.symlink_to(shelf)
    runtime.publish()
    return runtime


def fill(client: Client, runtime: Runtime, models: list[str], **options: Any) -> None:
    put = client.put("/v1/libraries/art", json={"models": models, **options})
    assert put.status_code == 201, put.text
    job_id = post(client, [(name, plain_picture(name)) for name in NAMES], "art")
    assert run(runtime, job_id) == ["succeeded"] * len(NAMES)


def run(runtime: Runtime, job_id: str) -> list[str]:
    n_chunks = runtime.jobs.get(job_id).n_chunks
    return [one for chunk in range(n_chunks) for one in outcomes(runtime, job_id, chunk)]


def reindex(client: Client, runtime: Runtime, models: list[str], **options: Any) -> list[str]:
    """Gives the library other models. Returns the pictures' outcomes."""
    put = client.put("/v1/libraries/art", json={"models": models, **options})
    assert put.status_code == 202, put.text
    job_id = put.json["id"]
    runtime.editions.plan(make_celery(runtime.settings), job_id)
    return run(runtime, job_id)


def lose_pictures(runtime: Runtime, ids: list[str]) -> None:
    for image_id in ids:
        runtime.blobs.delete(image_key(library_id(runtime, "art"), image_id))


def stored(runtime: Runtime, ref: str) -> NDArray[Any]:
    [target] = runtime.targets.of(runtime.catalog.library("art"), [ref])
    rows = runtime.vectors.read_stored(target.collection, IDS)
    return np.stack([rows[image_id] for image_id in IDS])


def of_pictures(runtime: Runtime, ref: str) -> NDArray[Any]:
    model = runtime.registry.open(ref)
    pictures = [open_picture(plain_picture(name)) for name in NAMES]
    return model.embed_batch(np.stack([one.pixels_for(model.card.input) for one in pictures]))


@on_every_milvus
def test_vectors_are_computed_from_vectors_and_no_picture_is_read(
    client: Client, runtime: Runtime
) -> None:
    fill(client, runtime, [OLD])
    lose_pictures(runtime, IDS)
    before = runtime.catalog.cost_s(library_id(runtime, "art")), runtime.counts.n_pictures

    assert reindex(client, runtime, [TUNED]) == ["succeeded"] * len(NAMES)

    assert client.get("/v1/libraries/art").json["models"] == [TUNED]
    assert stored(runtime, TUNED) == pytest.approx(of_pictures(runtime, TUNED), abs=1e-6)
    image = client.get(f"/v1/images/{IDS[0]}?library=art").json
    assert (image["models"], image["name"]) == ([OLD, TUNED], "red")
    after = runtime.catalog.cost_s(library_id(runtime, "art")), runtime.counts.n_pictures
    assert after == before, "nothing is learned of what a picture costs"


def test_a_picture_whose_vector_is_missing_is_embedded(client: Client, runtime: Runtime) -> None:
    fill(client, runtime, [OLD])
    [target] = runtime.targets.of(runtime.catalog.library("art"))
    runtime.vectors.delete(target.collection, IDS[:2])
    lose_pictures(runtime, IDS[2:])

    assert reindex(client, runtime, [TUNED]) == ["succeeded"] * len(NAMES)

    assert stored(runtime, TUNED) == pytest.approx(of_pictures(runtime, TUNED), abs=1e-6)


def test_another_model_beside_it_needs_the_pictures(client: Client, runtime: Runtime) -> None:
    fill(client, runtime, [OLD])

    assert reindex(client, runtime, [TUNED, TINT]) == ["succeeded"] * len(NAMES)

    assert stored(runtime, TUNED) == pytest.approx(of_pictures(runtime, TUNED), abs=1e-6)
    assert stored(runtime, f"{TINT}@1") == pytest.approx(
        of_pictures(runtime, f"{TINT}@1"), abs=1e-6
    )


@pytest.mark.parametrize(
    ("models", "options", "to"),
    [
        pytest.param([OLD], {"index": {"vector": "FLOAT16"}}, TUNED, id="halved"),
        pytest.param([f"{TINT}@1"], {}, TUNED, id="another-model"),
        pytest.param([OLD], {}, f"{COLOURS}@1-other", id="another-file-of-that-name"),
    ],
)
def test_from_other_vectors_nothing_is_computed(
    client: Client, runtime: Runtime, models: list[str], options: dict[str, Any], to: str
) -> None:
    fill(client, runtime, models, **options)
    lose_pictures(runtime, IDS[:1])

    assert reindex(client, runtime, [to]) == ["failed", *["succeeded"] * (len(NAMES) - 1)]


def test_into_halved_numbers_they_are_computed_too(client: Client, runtime: Runtime) -> None:
    fill(client, runtime, [OLD])
    lose_pictures(runtime, IDS)

    halved = {"vector": "FLOAT16"}
    assert reindex(client, runtime, [TUNED], index=halved) == ["succeeded"] * len(NAMES)

    assert stored(runtime, TUNED) == pytest.approx(of_pictures(runtime, TUNED), abs=1e-3)


@pytest.mark.parametrize(("to", "n_chunks"), [(TUNED, 1), (f"{TINT}@1", 2)])
def test_chunks_are_larger_where_no_picture_is_needed(
    client: Client, runtime: Runtime, to: str, n_chunks: int
) -> None:
    assert client.put("/v1/libraries/art", json={"models": [OLD]}).status_code == 201
    many = [(str(grey), png_of(grey)) for grey in range(MAX_CHUNK_ITEMS + 1)]
    assert set(run(runtime, post(client, many, "art"))) == {"succeeded"}
    job_id = client.put("/v1/libraries/art", json={"models": [to]}).json["id"]

    planning = set_anew(runtime, chunk_items=None)
    with planning.redis.pipeline() as pipeline:
        planning.catalog.note_cost(pipeline, library_id(runtime, "art"), 1e-9)
        pipeline.execute()
    planning.editions.plan(make_celery(planning.settings), job_id)

    assert runtime.jobs.get(job_id).n_chunks == n_chunks


def png_of(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (16, 16), grey).save(file, "PNG")
    return file.getvalue()
