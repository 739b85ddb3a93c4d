"""Milvus through `Vectors`: what is written is found, exactly, and errors are ours."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from twinlens.models.card import Card
from twinlens.models.registry import SHIPPED_CARDS, load_card
from twinlens.shared.errors import Unavailable
from twinlens.shared.settings import Settings
from twinlens.workers.vectors import Vectors, collection_of

LITE0 = load_card(SHIPPED_CARDS / "efficientnet-lite0@1.toml")
PHASH = load_card(SHIPPED_CARDS / "phash@1.toml")
N_ROWS = 50


def id_of(number: int) -> str:
    return f"{number:064x}"


def embeddings_for(card: Card, seed: int) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    if card is PHASH:
        return rng.integers(0, 256, (N_ROWS, 8), dtype=np.uint8)
    rows = rng.standard_normal((N_ROWS, card.dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def true_distances(card: Card, rows: NDArray[Any], query: NDArray[Any]) -> NDArray[Any]:
    """What Milvus documents: squared Euclidean distance, and the number of different bits."""
    if card is PHASH:
        return np.bitwise_count(rows ^ query).sum(axis=1)
    return ((rows - query) ** 2).sum(axis=1)


@pytest.fixture
def library() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def vectors(settings: Settings) -> Vectors:
    return Vectors(settings)


@pytest.fixture(params=[LITE0, PHASH], ids=["float", "bits"])
def card(request: pytest.FixtureRequest) -> Card:
    found: Card = request.param
    return found


def test_nearest_gives_the_true_distances_in_order(
    vectors: Vectors, library: str, card: Card
) -> None:
    rows = embeddings_for(card, 1)
    vectors.upsert(library, card, [id_of(i) for i in range(N_ROWS)], rows)
    found = vectors.nearest(library, card, rows[3], limit=10)
    truth = true_distances(card, rows, rows[3])
    assert next(iter(found)) == id_of(3)
    assert list(found.values()) == pytest.approx(sorted(truth)[:10], abs=1e-4)
    for image_id, distance in found.items():
        assert distance == pytest.approx(truth[int(image_id, 16)], abs=1e-4)


def test_among_gives_the_distance_of_each_id_that_was_named(
    vectors: Vectors, library: str, card: Card
) -> None:
    rows = embeddings_for(card, 2)
    vectors.upsert(library, card, [id_of(i) for i in range(N_ROWS)], rows)
    truth = true_distances(card, rows, rows[0])
    farthest = [int(i) for i in np.argsort(truth)[-5:]]
    found = vectors.nearest(library, card, rows[0], 5, among=[id_of(i) for i in farthest])
    assert found == pytest.approx({id_of(i): truth[i] for i in farthest}, abs=1e-4)


def test_a_repeated_upsert_changes_nothing_and_a_new_one_replaces(
    vectors: Vectors, library: str, card: Card
) -> None:
    rows = embeddings_for(card, 3)
    ids = [id_of(i) for i in range(N_ROWS)]
    for _ in range(2):
        vectors.upsert(library, card, ids, rows)
    assert vectors.count(library, card) == N_ROWS
    vectors.upsert(library, card, ids[:1], rows[1:2])
    assert np.array_equal(vectors.fetch(library, card, ids[:1])[ids[0]], rows[1])
    assert vectors.count(library, card) == N_ROWS


def test_a_removed_vector_is_gone(vectors: Vectors, library: str, card: Card) -> None:
    rows = embeddings_for(card, 4)
    vectors.upsert(library, card, [id_of(i) for i in range(N_ROWS)], rows)
    vectors.delete(library, card, id_of(7))
    assert id_of(7) not in vectors.nearest(library, card, rows[7], N_ROWS)
    assert list(vectors.fetch(library, card, [id_of(6), id_of(7)])) == [id_of(6)]


def test_two_versions_of_a_model_never_share_a_collection() -> None:
    other = LITE0.model_copy(update={"version": "2"})
    assert collection_of("default", LITE0) != collection_of("default", other)
    assert collection_of("default", LITE0) != collection_of("other", LITE0)


def test_an_id_that_could_break_out_of_the_filter_is_refused(
    vectors: Vectors, library: str
) -> None:
    with pytest.raises(ValueError, match="not hexadecimal"):
        vectors.nearest(library, PHASH, np.zeros(8, np.uint8), 1, among=['x" or id != "'])


def test_a_milvus_that_is_away_is_unavailable(settings: Settings) -> None:
    away = settings.model_copy(update={"milvus_uri": "http://127.0.0.1:9", "milvus_timeout_s": 1.0})
    with pytest.raises(Unavailable, match="Milvus"):
        Vectors(away).ping(timeout_s=1)
