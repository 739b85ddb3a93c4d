"""A service that has two libraries, and one that has nothing."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

import pytest
from support.backups import ART, LITE, PLAIN, Two
from support.every_milvus import tidied
from support.known_library import make_shelf
from support.places import Place, place_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pymilvus import MilvusClient


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shelf(tmp_path_factory.mktemp("shelf") / "models")


@pytest.fixture(params=[LITE])
def two(
    request: pytest.FixtureRequest,
    redis_url: str,
    tmp_path: Path,
    shelf: Path,
    models_dir: Path,
    milvus_clients: dict[str, MilvusClient],
    kept_collections: set[str],
) -> Iterator[Two]:
    uris = [request.getfixturevalue(name) for name in request.param]
    with contextlib.ExitStack() as held:
        for uri in dict.fromkeys(uris):
            held.enter_context(tidied(uri, milvus_clients, kept_collections))
        places: list[Place] = []
        for name, uri in zip(("full", "empty"), uris, strict=True):
            models = shutil.copytree(shelf, tmp_path / f"{name} models")
            url = redis_url.replace("db=0", f"db={len(places) + 1}")
            places.append(place_at(tmp_path / name, url, uri, models, models_dir))
        two = Two(*places)
        two.full.make("art", ["colours@1", "tint@1", "phash@1"], weights={"tint": 0.25})
        two.full.add("art", ART)
        two.full.add("default", PLAIN)
        yield two


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backup"
