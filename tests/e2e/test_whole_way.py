"""A user's way through the whole service: upload, search, look, remove."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.clients import WAIT, Client
from support.photos import jpeg, make_photos, source
from support.requests import counts

NETWORKS = ("efficientnet-lite0", "efficientnet-lite2")
MODELS = (*NETWORKS, "phash")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_photos(tmp_path_factory.mktemp("whole") / "photos", 40, seed=1)


@pytest.fixture(scope="module")
def indexed(client: Client, photos: list[Path]) -> list[Path]:
    assert client.index(photos)["status"] == "succeeded"
    return photos


def test_a_bulk_upload_is_counted_and_the_same_again_is_skipped(
    client: Client, tmp_path: Path
) -> None:
    batch = make_photos(tmp_path / "photos", 10, seed=2)
    first, second = client.index(batch), client.index(batch)
    assert counts(first) == {"total": 10, "succeeded": 10, "skipped": 0, "failed": 0}
    assert counts(second) == {"total": 10, "succeeded": 0, "skipped": 10, "failed": 0}
    assert [item["name"] for item in client.items(first)] == [path.name for path in batch]


def test_a_zip_is_the_same_as_a_form(client: Client, tmp_path: Path) -> None:
    batch = make_photos(tmp_path / "photos", 5, seed=3)
    job = client.index_zip({f"folder/{path.name}": path.read_bytes() for path in batch})
    assert counts(job) == {"total": 5, "succeeded": 5, "skipped": 0, "failed": 0}
    assert client.index(batch)["progress"]["updated"] == 5  # they have no folder any more


def test_each_picture_is_found_by_itself_first_under_every_model(
    client: Client, photos: list[Path]
) -> None:
    # Its own: scores depend on what else is there, and other tests fill the default one.
    client.http.put("/v1/libraries/itself", json={"models": MODELS}).raise_for_status()
    assert client.index(photos, library="itself")["status"] == "succeeded"
    for path in photos[:5]:
        query = json.dumps({"library": "itself", "k": 3})
        result = client.search(path.read_bytes(), query)["result"]
        assert len(result["hits"]) == 3
        assert result["hits"][0]["image"]["name"] == path.name
        assert result["hits"][0]["score"] == pytest.approx(1, abs=1e-4)
        for name in MODELS:
            best = result["by_model"][name][0]
            assert best["image_id"] == result["hits"][0]["image"]["id"]
            assert best["distance"] == pytest.approx(0, abs=1e-4)


def test_an_edited_copy_is_found(client: Client) -> None:
    photo = source("camera.png")
    added = client.add("the original.jpg", jpeg(photo))["result"]
    turned = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    edited = turned.crop((30, 20, photo.width - 30, photo.height - 20))
    hits = client.search(jpeg(edited, quality=40))["result"]["hits"]
    assert hits[0]["image"]["id"] == added["id"]


def test_a_stored_image_as_the_query_is_not_among_its_hits(
    client: Client, indexed: list[Path]
) -> None:
    image = client.search(indexed[0].read_bytes())["result"]["hits"][0]["image"]
    body = {"image_id": image["id"], "models": list(NETWORKS), "k": 5}
    answer = client.http.post("/v1/search", json=body, headers=WAIT).json()
    result = answer["result"]
    assert set(result["by_model"]) == set(NETWORKS)
    assert len(result["hits"]) == 5
    assert image["id"] not in {hit["image"]["id"] for hit in result["hits"]}


def test_the_stages_of_a_search_add_up(client: Client, indexed: list[Path]) -> None:
    timing = client.search(indexed[1].read_bytes())["result"]["timing_ms"]
    total = timing.pop("total")
    stages = {"queued", "decode", "embed", "search", "fuse", "rerank", "verify"}
    assert set(timing) == stages
    assert sum(timing.values()) == pytest.approx(total, abs=0.1)


def test_an_image_has_content_thumbnail_and_metadata(client: Client) -> None:
    photo = source("rocket.jpg")
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    content = io.BytesIO()
    photo.save(content, "JPEG", exif=exif)
    files: dict[str, Any] = {
        "file": ("Rakete 🚀.JPG", content.getvalue()),
        "metadata": (None, '{"year": 2026, "tags": ["a", "b"]}', "application/json"),
    }
    job = client.http.post("/v1/images", files=files, headers=WAIT).raise_for_status().json()
    image = client.ended(job)["result"]
    assert image["name"] == "Rakete 🚀.JPG"
    assert image["metadata"] == {"year": 2026, "tags": ["a", "b"]}
    assert (image["width"], image["height"]) == photo.size
    assert image["format"] == "image/jpeg"

    stored = client.http.get(image["links"]["content"])
    assert stored.content == content.getvalue()
    assert stored.headers["X-Content-Type-Options"] == "nosniff"
    again = client.http.get(
        image["links"]["content"], headers={"If-None-Match": stored.headers["ETag"]}
    )
    assert again.status_code == 304

    thumbnail = client.http.get(image["links"]["thumbnail"]).raise_for_status()
    assert max(Image.open(io.BytesIO(thumbnail.content)).size) == 256
    assert b"secret" not in thumbnail.content


def test_a_removed_image_is_found_no_more(client: Client, tmp_path: Path) -> None:
    [path] = make_photos(tmp_path / "photos", 1, seed=4)
    image = client.add(path.name, path.read_bytes())["result"]
    answer = client.http.delete(image["links"]["self"], headers=WAIT).raise_for_status()
    assert client.ended(answer.json())["status"] == "succeeded"
    assert client.http.get(image["links"]["self"]).status_code == 404
    hits = client.search(path.read_bytes())["result"]["hits"]
    assert image["id"] not in {hit["image"]["id"] for hit in hits}
    # And it can be had back.
    assert client.add(path.name, path.read_bytes())["progress"]["succeeded"] == 1


def test_images_are_listed_once_each(client: Client, indexed: list[Path]) -> None:
    names: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = client.get("/v1/images", limit=7, **cursor)
        names += [image["name"] for image in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert len(names) == client.get("/v1/stats")["libraries"]["default"]["images"]
    assert {path.name for path in indexed} <= set(names)


def test_stats_count_the_images_and_each_models_vectors(
    client: Client, indexed: list[Path]
) -> None:
    stats: Any = client.get("/v1/stats")
    library = stats["libraries"]["default"]
    assert len(indexed) <= library["images"]
    assert set(library["vectors"].values()) == {library["images"]}
    assert {lane for worker in stats["workers"] for lane in worker["lanes"]} == {"search", "bulk"}


def test_the_models_say_what_they_are(client: Client) -> None:
    models = {model["name"]: model for model in client.get("/v1/models")["items"]}
    assert set(models) == {*NETWORKS, "phash"}
    assert {models[name]["dimension"] for name in NETWORKS} == {1280}
    assert models["phash"]["metric"] == "HAMMING"
