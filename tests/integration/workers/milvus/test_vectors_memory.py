"""What a process keeps of the embeddings that it reads, how many at a time, and how it measures."""

from __future__ import annotations

import gc
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.known_library import at_angles, id_of, of_bits, true_distances
from support.tiny_pair import pair_card

from twinlens.models.card import load_card
from twinlens.models.cards import SHIPPED_CARDS
from twinlens.models.distances import Metric
from twinlens.shared.libraries import Index, new_library
from twinlens.shared.settings import Settings
from twinlens.workers.milvus import vectors as vectors_module
from twinlens.workers.milvus.collection import collection_of
from twinlens.workers.milvus.vectors import Vectors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twinlens.models.card import Card
    from twinlens.shared.libraries import FloatMetric
    from twinlens.workers.milvus.collection import Collection

PHASH = load_card(SHIPPED_CARDS / "phash@1.toml")
N_ROWS = 50
IDS = [id_of(number) for number in range(N_ROWS)]
ROWS = of_bits(range(N_ROWS))
ROOM_BYTES = 1 << 20


def new_collection(card: Card = PHASH) -> Collection:
    return collection_of(new_library("memory", [card.ref]), card)


@pytest.fixture
def other(lite_uri: str) -> Vectors:
    """Those of another process."""
    return Vectors(Settings(milvus_uri=lite_uri))


@pytest.fixture
def collection(other: Vectors) -> Iterator[Collection]:
    made = new_collection()
    other.upsert(made, IDS, ROWS, [{}] * N_ROWS)
    yield made
    other.drop(made.name)


def own(lite_uri: str) -> Vectors:
    return Vectors(Settings(milvus_uri=lite_uri, cache_bytes=ROOM_BYTES))


def test_what_was_read_comes_from_memory_for_any_library_of_the_model(
    lite_uri: str, other: Vectors, collection: Collection
) -> None:
    vectors = own(lite_uri)
    assert vectors.fetch(collection, IDS).keys() == set(IDS)
    other.delete(collection, IDS)
    for one in (collection, new_collection()):
        rows = vectors.fetch(one, IDS[::-1])
        assert rows.keys() == set(IDS)
        assert all(np.array_equal(rows[i], row) for i, row in zip(IDS, ROWS, strict=True))
    another = new_collection(PHASH.model_copy(update={"sha256": "1" * 64, "version": "2"}))
    assert vectors.fetch(another, IDS) == {}
    assert own(lite_uri).fetch(collection, IDS) == {}
    other.drop(another.name)


@pytest.fixture
def hashes(other: Vectors, collection: Collection) -> list[str]:
    """More of them than there is room for in `ROOM_BYTES`."""
    ids = [id_of(number) for number in range(N_ROWS, N_ROWS + 5000)]
    other.upsert(collection, ids, of_bits([0] * len(ids)), [{}] * len(ids))
    return ids


def test_no_more_is_kept_than_there_is_room_for(
    lite_uri: str, other: Vectors, collection: Collection, hashes: list[str]
) -> None:
    vectors = own(lite_uri)
    assert len(vectors.fetch(collection, hashes)) == len(hashes)
    other.delete(collection, hashes)
    n_kept = ROOM_BYTES // (ROWS[0].nbytes + vectors_module.ENTRY_BYTES)
    assert len(vectors.fetch(collection, hashes)) == n_kept < len(hashes)


def test_the_room_for_hashes_is_what_python_takes_for_them(
    lite_uri: str, collection: Collection, hashes: list[str]
) -> None:
    """A million of them would take 500 MB, and pass for 8."""
    vectors = own(lite_uri)
    vectors.fetch(collection, IDS)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    vectors.fetch(collection, hashes)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 2 * ROOM_BYTES


@pytest.mark.parametrize("n_rows", [7, 25, 49, 50, 51])
def test_all_are_read_however_many_at_a_time(
    lite_uri: str, collection: Collection, monkeypatch: pytest.MonkeyPatch, n_rows: int
) -> None:
    monkeypatch.setattr(vectors_module, "READ_ROWS", n_rows)
    rows = own(lite_uri).fetch(collection, [*IDS, "f" * 64])
    assert rows.keys() == set(IDS)
    assert all(np.array_equal(rows[i], row) for i, row in zip(IDS, ROWS, strict=True))


def test_of_ids_that_are_named_each_is_given_the_nearest_first(
    lite_uri: str, collection: Collection
) -> None:
    named = IDS[10:20]
    [distances] = own(lite_uri).distances_to(collection, ROWS[:1], named[::-1])
    assert distances == {image_id: 10 + place for place, image_id in enumerate(named)}
    assert list(distances) == named


@pytest.mark.parametrize("metric", ["L2", "IP", "COSINE"])
def test_what_an_index_lists_in_parts_is_measured_here(
    lite_uri: str, other: Vectors, metric: FloatMetric
) -> None:
    index = Index(type="IVF_FLAT", params={"nlist": 4, "nprobe": 1})
    library = new_library("parted", [pair_card().ref], metric=metric, index=index)
    collection = collection_of(library, pair_card())
    rows = at_angles(range(0, 4 * N_ROWS, 4)[:45])
    other.upsert(collection, IDS[:45], rows, [{}] * 45)
    vectors = own(lite_uri)
    far = [true_distances(rows, query, Metric(metric)) for query in rows[[0, 44]]]

    # All that there are, in the order of two queries, and some that are named.
    first, last = vectors.nearest(collection, rows[[0, 44]], 200)
    assert (list(first), list(last)) == (IDS[:45], IDS[44::-1])
    assert list(first.values()) == pytest.approx(far[0], abs=1e-5)
    assert last == pytest.approx(dict(zip(IDS, far[1], strict=False)), abs=1e-5)
    named = vectors.distances_to(collection, rows[[0, 44]], IDS[10:20])
    assert [list(some) for some in named] == [IDS[10:20], IDS[19:9:-1]]
    assert list(named[0].values()) == pytest.approx(far[0][10:20], abs=1e-5)
    assert vectors.distances_to(collection, rows[[0, 44]], ["f" * 64]) == [{}, {}]
    other.drop(collection.name)


def test_no_id_may_break_out_of_a_filter_among_others(
    lite_uri: str, collection: Collection
) -> None:
    with pytest.raises(ValueError, match="not hexadecimal"):
        own(lite_uri).distances_to(collection, ROWS[:1], [IDS[0], '"] or id != "'])
