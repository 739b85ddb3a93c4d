"""Every Milvus through `Vectors`: what is written is found, exactly, and errors are ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from pymilvus import DataType, MilvusClient
from support.every_milvus import on_every_milvus

from twinlens.models.card import Card, load_card
from twinlens.models.cards import SHIPPED_CARDS
from twinlens.models.distances import pairwise_distances
from twinlens.shared.errors import Unavailable, ValidationFailed
from twinlens.shared.filters.language import parse_filter
from twinlens.shared.libraries import FloatMetric, Index, IndexType, new_library
from twinlens.shared.settings import Settings
from twinlens.workers.milvus.collection import ID_FIELD, VECTOR_FIELD, Collection, collection_of
from twinlens.workers.milvus.expressions import METADATA_FIELD
from twinlens.workers.milvus.vectors import Vectors

pytestmark = on_every_milvus

LITE0 = load_card(SHIPPED_CARDS / "efficientnet-lite0@1.toml")
PHASH = load_card(SHIPPED_CARDS / "phash@1.toml")
N_ROWS = 50
N_MANY = 20_000


def id_of(number: int) -> str:
    return f"{number:064x}"


def embeddings_for(card: Card, seed: int) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    if card is PHASH:
        return rng.integers(0, 256, (N_ROWS, 8), dtype=np.uint8)
    rows = rng.standard_normal((N_ROWS, card.dimension)).astype(np.float32)
    unit: NDArray[Any] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def true_distances(card: Card, rows: NDArray[Any], query: NDArray[Any]) -> NDArray[Any]:
    """What Milvus documents: squared Euclidean distance, and the number of different bits."""
    apart = np.bitwise_count(rows ^ query) if card is PHASH else (rows - query) ** 2
    distances: NDArray[Any] = apart.sum(axis=1)
    return distances


@pytest.fixture
def vectors(milvus_uri: str) -> Vectors:
    return Vectors(Settings(milvus_uri=milvus_uri))


@pytest.fixture
def other(milvus_uri: str) -> Vectors:
    """Those of another process."""
    return Vectors(Settings(milvus_uri=milvus_uri))


@pytest.fixture(params=[LITE0, PHASH], ids=["float", "bits"])
def card(request: pytest.FixtureRequest) -> Card:
    param: Card = request.param
    return param


@pytest.fixture
def collection(card: Card, vectors: Vectors) -> Iterator[Collection]:
    collection = collection_of(new_library("test", [card.ref]), card)
    yield collection
    vectors.drop(collection.name)


def upsert(
    vectors: Vectors, collection: Collection, ids: Sequence[str], rows: NDArray[Any]
) -> None:
    vectors.upsert(collection, ids, rows, [{}] * len(ids))


def test_nearest_gives_the_true_distances_in_order(
    vectors: Vectors, collection: Collection, card: Card
) -> None:
    rows = embeddings_for(card, 1)
    upsert(vectors, collection, [id_of(i) for i in range(N_ROWS)], rows)
    both = vectors.nearest(collection, rows[3:5], limit=10)
    assert len(both) == 2
    for place, distances in enumerate(both, start=3):
        truth = true_distances(card, rows, rows[place])
        assert next(iter(distances)) == id_of(place)
        assert list(distances.values()) == pytest.approx(sorted(truth)[:10], abs=1e-4)
        for image_id, distance in distances.items():
            assert distance == pytest.approx(truth[int(image_id, 16)], abs=1e-4)


def test_the_distance_is_given_of_each_id_that_was_named(
    vectors: Vectors, collection: Collection, card: Card
) -> None:
    rows = embeddings_for(card, 2)
    upsert(vectors, collection, [id_of(i) for i in range(N_ROWS)], rows)
    truth = true_distances(card, rows, rows[0])
    farthest = [int(i) for i in np.argsort(truth)[-5:]]
    [distances] = vectors.distances_to(collection, rows[:1], [id_of(i) for i in farthest])
    assert distances == pytest.approx({id_of(i): truth[i] for i in farthest}, abs=1e-4)


def test_a_repeated_upsert_changes_nothing_and_a_new_one_replaces(
    vectors: Vectors, collection: Collection, card: Card
) -> None:
    rows = embeddings_for(card, 3)
    ids = [id_of(i) for i in range(N_ROWS)]
    for _ in range(2):
        upsert(vectors, collection, ids, rows)
    assert vectors.count(collection) == N_ROWS
    upsert(vectors, collection, ids[:1], rows[1:2])
    assert np.array_equal(vectors.fetch(collection, ids[:1])[ids[0]], rows[1])
    assert vectors.count(collection) == N_ROWS


def test_a_removed_vector_is_gone(vectors: Vectors, collection: Collection, card: Card) -> None:
    rows = embeddings_for(card, 4)
    upsert(vectors, collection, [id_of(i) for i in range(N_ROWS)], rows)
    vectors.delete(collection, [id_of(7)])
    [nearest] = vectors.nearest(collection, rows[7:8], N_ROWS)
    assert id_of(7) not in nearest
    assert list(vectors.fetch(collection, [id_of(6), id_of(7)])) == [id_of(6)]


def test_a_search_is_filtered_by_metadata(
    vectors: Vectors, collection: Collection, card: Card
) -> None:
    rows = embeddings_for(card, 5)
    ids = [id_of(i) for i in range(N_ROWS)]
    vectors.upsert(collection, ids, rows, [{"place": i} for i in range(N_ROWS)])
    where = parse_filter("place >= 10 and place < 12")
    [nearest] = vectors.nearest(collection, rows[:1], N_ROWS, where=where)
    assert nearest.keys() == {id_of(10), id_of(11)}


def test_a_dropped_collection_is_made_anew(
    vectors: Vectors, collection: Collection, card: Card
) -> None:
    upsert(vectors, collection, [id_of(1)], embeddings_for(card, 6)[:1])
    vectors.drop(collection.name)
    vectors.drop(collection.name)
    assert vectors.count(collection) == 0


def test_what_was_written_is_there_for_everybody_at_once(
    vectors: Vectors, other: Vectors, collection: Collection, card: Card
) -> None:
    rows = embeddings_for(card, 8)
    upsert(vectors, collection, [id_of(0)], rows[:1])
    for i in range(1, 8):
        upsert(vectors, collection, [id_of(i)], rows[i : i + 1])
        assert list(other.nearest(collection, rows[i : i + 1], 1)[0]) == [id_of(i)]
        upsert(vectors, collection, [id_of(0)], rows[i + 8 : i + 9])
        assert list(other.nearest(collection, rows[i + 8 : i + 9], 1)[0]) == [id_of(0)]
        vectors.delete(collection, [id_of(i)])
        assert id_of(i) not in other.nearest(collection, rows[i : i + 1], N_ROWS)[0]
        assert other.count(collection) == 1


def test_many_may_make_a_collection_at_once(
    vectors: Vectors, other: Vectors, collection: Collection, card: Card
) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda one: one.count(collection), [vectors, other] * 4)) == {0}


def test_what_was_broken_off_is_made_whole(
    vectors: Vectors, collection: Collection, card: Card, milvus_uri: str
) -> None:
    """A process may be killed when it has made a collection, and no index."""
    client = MilvusClient(uri=milvus_uri, timeout=30)
    client.create_collection(collection.name, schema=schema_of(client, card))
    client.close()
    upsert(vectors, collection, [id_of(1)], embeddings_for(card, 9)[:1])
    assert vectors.count(collection) == 1


def schema_of(client: MilvusClient, card: Card) -> Any:
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(ID_FIELD, DataType.VARCHAR, is_primary=True, max_length=64)
    kind = DataType.BINARY_VECTOR if card is PHASH else DataType.FLOAT_VECTOR
    schema.add_field(VECTOR_FIELD, kind, dim=card.dimension)
    schema.add_field(METADATA_FIELD, DataType.JSON)
    return schema


@pytest.mark.parametrize("vector", ["FLOAT32", "FLOAT16"])
@pytest.mark.parametrize("name", get_args(IndexType))
def test_an_index_gives_the_true_distances_or_is_refused(
    vectors: Vectors, other: Vectors, name: IndexType, vector: Any
) -> None:
    index = Index(type=name, vector=vector)
    collections = [
        collection_of(new_library("test", [LITE0.ref], metric=metric, index=index), LITE0)
        for metric in get_args(FloatMetric)
    ]
    rows = embeddings_for(LITE0, 10)
    ids = [id_of(i) for i in range(N_ROWS)]
    if name not in vectors.server.types_of(index):
        for collection in collections:
            with pytest.raises(ValidationFailed) as refused:
                upsert(vectors, collection, ids, rows)
            wrong = "type" if vectors.server.types_of(index) else "vector"
            assert [one.location for one in refused.value.errors] == [f"/index/{wrong}"]
            assert not vectors.has(collection.name)
        return
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda collection: upsert(vectors, collection, ids, rows), collections))
    # Half the digits: a vector of length 1 then has one of 1 within 1e-4.
    close = 1e-4 if vector == "FLOAT32" else 1e-3
    for collection in collections:
        truth = pairwise_distances(rows[3:5], rows, collection.card)
        nearest_first = np.sort(truth if collection.card.metric == "L2" else -truth, axis=1)
        for k in (5, N_ROWS):
            for place, distances in enumerate(vectors.nearest(collection, rows[3:5], k)):
                in_order = np.abs(nearest_first[place, :k])
                assert np.abs(list(distances.values())) == pytest.approx(in_order, abs=close)
                expected = {i: truth[place, int(i, 16)] for i in distances}
                assert distances == pytest.approx(expected, abs=close)
        [named] = vectors.distances_to(collection, rows[3:4], ids[:9])
        assert named == pytest.approx({ids[i]: truth[0, i] for i in range(9)}, abs=close)
        stored = other.fetch(collection, ids[:2])
        assert all(stored[ids[i]].dtype == np.float32 for i in range(2))
        assert all(stored[ids[i]] == pytest.approx(rows[i], abs=close) for i in range(2))
        vectors.drop(collection.name)


@pytest.mark.parametrize("vector", ["FLOAT32", "FLOAT16"])
def test_what_is_stored_is_read_to_the_bit_and_nothing_is_made(
    vectors: Vectors, vector: Any
) -> None:
    index = Index(vector=vector)
    for card in (LITE0, PHASH):
        collection = collection_of(new_library("test", [card.ref], index=index), card)
        assert vectors.read_stored(collection, [id_of(1)]) == {}
        assert not vectors.has(collection.name)
        if card is not PHASH and not vectors.server.types_of(index):
            continue
        rows = embeddings_for(card, 12).astype(collection.dtype)
        upsert(vectors, collection, [id_of(i) for i in range(N_ROWS)], rows)
        stored = vectors.read_stored(collection, [id_of(i) for i in (3, 4, N_ROWS)])
        assert {image_id: (row.dtype, row.tobytes()) for image_id, row in stored.items()} == {
            id_of(i): (collection.dtype, rows[i].tobytes()) for i in (3, 4)
        }
        vectors.drop(collection.name)


def test_what_one_library_has_in_half_is_not_taken_for_what_another_has_in_full(
    vectors: Vectors,
) -> None:
    half = Index(vector="FLOAT16")
    if not vectors.server.types_of(half):
        pytest.skip("this server has no FLOAT16")
    rows = embeddings_for(LITE0, 13)[:1]
    for index in (half, Index()):
        collection = collection_of(new_library("test", [LITE0.ref], index=index), LITE0)
        upsert(vectors, collection, [id_of(0)], rows)
        stored = vectors.fetch(collection, [id_of(0)])[id_of(0)]
        assert np.array_equal(stored, rows[0]) == (index.vector == "FLOAT32")
        vectors.drop(collection.name)


def test_parameters_that_do_not_suit_a_model_are_refused(vectors: Vectors) -> None:
    index = Index(type="IVF_FLAT", params={"nlist": 0})
    library = new_library("test", [LITE0.ref], index=index)
    with pytest.raises(ValidationFailed) as refused:
        vectors.count(collection_of(library, LITE0))
    assert [one.location for one in refused.value.errors] == ["/index/params/nlist"]


@pytest.fixture(scope="module")
def many() -> NDArray[np.float32]:
    """In clusters, as embeddings are, so that a list of an index has one kind of them."""
    rng = np.random.default_rng(11)
    rows = rng.standard_normal((40, 32))[rng.integers(0, 40, N_MANY)]
    rows += 0.3 * rng.standard_normal(rows.shape)
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit.astype(np.float32)


@pytest.mark.parametrize("kind", ["AUTO", "IVF_FLAT"])
def test_a_filter_loses_none_however_few_fit_it(
    vectors: Vectors, many: NDArray[np.float32], kind: Any
) -> None:
    """Of 20,000 new rows, a real server looks into 16 of the 128 lists that it makes of them."""
    card = LITE0.model_copy(update={"dimension": many.shape[1]})
    index = Index(type=kind, params={"nprobe": 1} if kind == "IVF_FLAT" else {})
    library = new_library("test", [card.ref], index=index)
    collection = collection_of(library, card)
    for start in range(0, N_MANY, 5000):
        rows = many[start : start + 5000]
        ids = [id_of(start + i) for i in range(len(rows))]
        vectors.upsert(collection, ids, rows, [{"place": start + i} for i in range(len(rows))])
    fit = range(7000, 7100)
    truth = pairwise_distances(many[:1], many[fit], card)[0]
    expected = {id_of(i): far for i, far in zip(fit, truth, strict=True)}
    where = parse_filter(f"place >= {fit.start} and place < {fit.stop}")
    [all_that_fit] = vectors.nearest(collection, many[:1], 200, where=where)
    assert all_that_fit == pytest.approx(expected, abs=1e-4)
    assert list(all_that_fit.values()) == sorted(all_that_fit.values())
    [named] = vectors.distances_to(collection, many[:1], list(expected))
    assert named == pytest.approx(expected, abs=1e-4)
    vectors.drop(collection.name)


def test_an_id_that_could_break_out_of_the_filter_is_refused(
    vectors: Vectors, collection: Collection, card: Card
) -> None:
    rows = embeddings_for(card, 7)
    with pytest.raises(ValueError, match="not hexadecimal"):
        vectors.distances_to(collection, rows[:1], ['x" or id != "'])


def test_a_milvus_that_is_away_is_unavailable(settings: Settings) -> None:
    away = settings.model_copy(update={"milvus_uri": "http://127.0.0.1:9", "milvus_timeout_s": 1.0})
    with pytest.raises(Unavailable, match="Milvus"):
        Vectors(away).ping(timeout_s=1)
