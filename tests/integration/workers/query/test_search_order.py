"""What is nearest, under every metric, on real servers: pictures lie where the tests put them."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from support.embedding import library_id
from support.every_milvus import on_every_milvus
from support.known_library import (
    COLOURS,
    PHASH,
    TINT,
    Known,
    at_angles,
    at_cosines,
    id_of,
    make_shelf,
    of_bits,
    true_distances,
    write_known,
)
from support.tiny_pair import SIZE_PX, plain_picture

from twinlens.models.distances import Metric
from twinlens.models.fusion import Fusion, agreement
from twinlens.models.pictures import open_picture
from twinlens.models.registry import Registry
from twinlens.models.rerank import rerank
from twinlens.models.variants import variants_of
from twinlens.shared.blobs import image_key
from twinlens.shared.errors import BadRequest, ImageNotFound
from twinlens.shared.queries import CompareQuery, DuplicatesQuery, SearchQuery
from twinlens.shared.redis import keys
from twinlens.shared.settings import Settings
from twinlens.workers.milvus.collection import collection_of
from twinlens.workers.milvus.vectors import Vectors
from twinlens.workers.query import duplicates as duplicates_module
from twinlens.workers.query import searches as searches_module
from twinlens.workers.query.examples import NumSent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from twinlens.models.card import Card
    from twinlens.shared.libraries import Library
    from twinlens.shared.queries import SearchResult
    from twinlens.workers.milvus.collection import Collection
    from twinlens.workers.process.runtime import Runtime

FLOAT_METRICS = (Metric.L2, Metric.IP, Metric.COSINE)
# Each metric, and the model that has it.
MEASURES = [(metric, COLOURS) for metric in FLOAT_METRICS] + [(Metric.HAMMING, PHASH)]
every_metric = pytest.mark.parametrize(("metric", "model"), MEASURES)

N_PICTURES = 40
# In an order of their own: no two as far from the first, some on its other side.
ANGLES = [0, *(np.random.default_rng(1).permutation(np.arange(1, N_PICTURES)) * 4.5).tolist()]
N_SET = [10, *(10 + np.random.default_rng(2).permutation(np.arange(1, N_PICTURES))).tolist()]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shelf(tmp_path_factory.mktemp("shelf") / "models")


@pytest.fixture(scope="module")
def cards(shelf: Path) -> dict[str, Card]:
    return {card.name: card for card in Registry(shelf).cards()}


@pytest.fixture(scope="module")
def milvus_uri(request: pytest.FixtureRequest) -> str:
    """As everywhere, but once for all tests that share what is written."""
    uri: str = request.getfixturevalue(getattr(request, "param", "lite_uri"))
    return uri


@pytest.fixture(scope="module")
def write(milvus_uri: str, cards: dict[str, Card]) -> Callable[..., Known]:
    """Writes a library once: asked again for the same, it gives the same."""
    vectors = Vectors(Settings(milvus_uri=milvus_uri))
    written: dict[str, Known] = {}

    def once(rows: dict[str, NDArray[Any]], **options: Any) -> Known:
        key = repr([(name, some.tobytes()) for name, some in rows.items()]) + repr(options)
        if key not in written:
            written[key] = write_known(vectors, cards, rows, **options)
        return written[key]

    return once


@pytest.fixture
def runtime(runtime: Runtime, shelf: Path) -> Runtime:
    runtime.settings.models_dir.unlink()
    runtime.settings.models_dir.symlink_to(shelf)
    return runtime


def find(runtime: Runtime, sent: bytes | None = None, **query: Any) -> SearchResult:
    if sent is not None:
        runtime.sent_pictures.set(keys.query_picture("q"), sent)
    asked = SearchQuery(library="known", **({"k": 1000, "rerank": "none"} | query))
    return runtime.searches.search("q", asked, time.time(), NumSent(int(sent is not None)))


def numbers(known: Known, result: SearchResult) -> list[int]:
    return known.numbers([hit.image.id for hit in result.hits])


def with_small_blocks(runtime: Runtime, n_candidates: int) -> Runtime:
    """Returns what a process has whose rankings come in small blocks, and so go deep."""
    return replace(runtime, searches=replace(runtime.searches, n_candidates=n_candidates))


class Circle:
    """A library of three models, and what is to be found in it from its first picture."""

    def __init__(self, write: Callable[..., Known], metric: Metric, model: str) -> None:
        rows: dict[str, Any] = {COLOURS: at_angles(ANGLES), PHASH: of_bits(N_SET)}
        self.known = write(rows, metric=None if metric is Metric.HAMMING else metric.value)
        some = rows[model]
        self.distances = true_distances(some, some[0], metric)
        # By the geometry, and not by any distance.
        places = ANGLES if model == COLOURS else N_SET
        self.order = sorted(range(1, N_PICTURES), key=lambda number: places[number])


@pytest.fixture
def circle(runtime: Runtime, write: Callable[..., Known], metric: Metric, model: str) -> Circle:
    circle = Circle(write, metric, model)
    circle.known.put(runtime)
    return circle


@on_every_milvus
@every_metric
@pytest.mark.parametrize("fusion", [Fusion.CALIBRATED, Fusion.RRF, Fusion.MAX])
def test_the_nearest_comes_first_at_the_distance_that_the_metric_says(
    runtime: Runtime, circle: Circle, metric: Metric, model: str, fusion: Fusion
) -> None:
    result = find(runtime, image_id=id_of(0), models=[model], fusion=fusion)

    assert numbers(circle.known, result) == circle.order
    expected = [circle.distances[number] for number in circle.order]
    model_hits = [hit.models[model] for hit in result.hits]
    assert [one.distance for one in model_hits] == pytest.approx(expected, abs=1e-5)
    assert [one.rank for one in model_hits] == [hit.rank for hit in result.hits]
    assert [hit.rank for hit in result.hits] == list(range(1, N_PICTURES))
    scores = [one.score for one in model_hits]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.9
    assert scores[-1] < 0.1
    assert [hit.score for hit in result.hits] == sorted(
        (hit.score for hit in result.hits), reverse=True
    )
    listed = result.by_model[model]
    assert circle.known.numbers([one.image_id for one in listed]) == circle.order
    assert [one.distance for one in listed] == pytest.approx(expected, abs=1e-5)


@on_every_milvus
@every_metric
@pytest.mark.parametrize("n_candidates", [2, 100])
def test_a_largest_distance_keeps_the_nearer_ones(
    runtime: Runtime, circle: Circle, model: str, n_candidates: int
) -> None:
    runtime = with_small_blocks(runtime, n_candidates)
    both = find(runtime, image_id=id_of(0), models=[model]).hits
    limit = both[8].models[model].distance

    result = find(runtime, image_id=id_of(0), models=[model], max_distance={model: limit})

    assert numbers(circle.known, result) == circle.order[:9]


@every_metric
@pytest.mark.parametrize("n_candidates", [2, 100])
def test_a_least_score_keeps_the_nearer_ones(
    runtime: Runtime, circle: Circle, model: str, n_candidates: int
) -> None:
    runtime = with_small_blocks(runtime, n_candidates)
    least = find(runtime, image_id=id_of(0), models=[model]).hits[8].score

    result = find(runtime, image_id=id_of(0), models=[model], min_score=least)

    assert numbers(circle.known, result) == circle.order[:9]


@every_metric
@pytest.mark.parametrize("n_candidates", [1, 3, 100])
def test_pages_put_together_are_the_one_long_page(
    runtime: Runtime, circle: Circle, model: str, n_candidates: int
) -> None:
    runtime = with_small_blocks(runtime, n_candidates)

    pages = [
        find(runtime, image_id=id_of(0), models=[model], k=7, offset=n) for n in range(0, 42, 7)
    ]

    assert [one for page in pages for one in numbers(circle.known, page)] == circle.order
    assert [hit.rank for page in pages for hit in page.hits] == list(range(1, N_PICTURES))
    if n_candidates == 100:
        for page in pages:
            listed = [(one.rank, one.image_id) for one in page.by_model[model]]
            assert listed == [(hit.rank, hit.image.id) for hit in page.hits]


@every_metric
def test_what_is_not_wanted_takes_no_place_in_any_list(
    runtime: Runtime, circle: Circle, model: str
) -> None:
    runtime = with_small_blocks(runtime, 5)
    gone, kept = circle.order[:6], circle.order[6:]

    asked: dict[str, Any] = {"models": [model], "exclude": [id_of(n) for n in gone]}
    without = find(runtime, image_id=id_of(0), k=5, **asked)
    with_query = find(runtime, image_id=id_of(0), k=5, include_query=True, **asked)

    assert numbers(circle.known, without) == kept[:5]
    assert circle.known.numbers([one.image_id for one in without.by_model[model]]) == kept[:5]
    assert numbers(circle.known, with_query) == [0, *kept[:4]]


@every_metric
def test_pictures_that_are_being_removed_leave_no_gap(
    runtime: Runtime, circle: Circle, model: str
) -> None:
    runtime.redis.flushall()
    # More than are at hand for it, and a few that are there among them.
    circle.known.put(runtime, without=[*circle.order[1:6], *circle.order[8:24]])

    result = find(runtime, image_id=id_of(0), models=[model], k=5)

    assert numbers(circle.known, result) == [circle.order[n] for n in (0, 6, 7, 24, 25)]


@every_metric
def test_every_model_tells_the_distance_of_what_another_listed(
    runtime: Runtime, circle: Circle, metric: Metric, model: str
) -> None:
    runtime = with_small_blocks(runtime, 3)

    result = find(runtime, image_id=id_of(0), k=3, weights={COLOURS: 1.0, PHASH: 1.0})
    each = find(runtime, image_id=id_of(0), weights={COLOURS: 1.0, PHASH: 1.0}, fusion="max")

    assert {len(listed) for listed in result.by_model.values()} == {3}
    assert len(each.hits) == N_PICTURES - 1
    # By the one or the other it is among the first, and so it was listed by that one alone.
    firsts = {one.image_id for listed in result.by_model.values() for one in listed}
    assert {hit.image.id for hit in each.hits[:3]} < firsts
    for hit in result.hits + each.hits:
        [number] = circle.known.numbers([hit.image.id])
        assert hit.models.keys() == {COLOURS, PHASH}
        assert hit.models[model].distance == pytest.approx(circle.distances[number], abs=1e-5)


@every_metric
def test_a_comparison_says_what_a_search_does(
    runtime: Runtime, circle: Circle, metric: Metric, model: str
) -> None:
    assumed = find(runtime, image_id=id_of(0)).hits[0].score
    runtime.calibrations.keep()
    searched = {hit.image.id: hit for hit in find(runtime, image_id=id_of(0)).hits}
    assert searched[id_of(circle.order[0])].score != assumed
    for number in (circle.order[0], circle.order[-1]):
        query = CompareQuery(library="known", image_ids=[id_of(0), id_of(number)])
        answer = runtime.comparisons.compare("t", query)
        hit = searched[id_of(number)]
        assert answer.models[model].distance == pytest.approx(circle.distances[number], abs=1e-5)
        assert answer.models[model].score == pytest.approx(hit.models[model].score, abs=1e-4)
        assert answer.score == pytest.approx(hit.score, abs=1e-4)
        alone = runtime.comparisons.compare("t", query.model_copy(update={"models": [model]}))
        assert alone.models == {model: answer.models[model]}


def framed(inner: str, outer: str) -> bytes:
    """A picture within a wide frame of another colour."""
    picture = Image.new("RGB", (100, 100), outer)
    picture.paste(Image.new("RGB", (80, 80), inner), (10, 10))
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize("metric", FLOAT_METRICS)
def test_of_a_copys_forms_the_nearest_counts(
    runtime: Runtime, write: Callable[..., Known], metric: Metric, cards: dict[str, Card]
) -> None:
    rows = at_angles(range(0, 95, 5))  # from red to green
    known = write({COLOURS: rows}, metric=metric.value)
    known.put(runtime)
    content = framed("red", "lime")
    forms = (
        Registry(runtime.settings.models_dir)
        .open(COLOURS)
        .embed_batch(
            variants_of(open_picture(content, wanted_px=SIZE_PX), cards[COLOURS], has_hash=False)
        )
    )
    each = [true_distances(rows, form, metric) for form in forms]
    best = [min(some) if metric is Metric.L2 else max(some) for some in zip(*each, strict=True)]

    result = find(runtime, content, mode="near")

    distances = {hit.image.id: hit.models[COLOURS].distance for hit in result.hits}
    assert [distances[image_id] for image_id in known.ids] == pytest.approx(best, abs=1e-5)
    listed = [one.distance for one in result.by_model[COLOURS]]
    assert listed == sorted(distances.values(), reverse=metric is not Metric.L2)
    # What is within the frame is red, all of it between red and green, at 29 degrees.
    assert set(numbers(known, result)[:2]) == {0, 6}
    assert set(numbers(known, find(runtime, content))[:2]) == {5, 6}


def test_models_weigh_what_the_query_says_else_the_mode_the_library_or_their_card(
    runtime: Runtime, write: Callable[..., Known]
) -> None:
    write({COLOURS: at_angles(range(0, 90, 5)), PHASH: of_bits(range(20, 56, 2))}).put(runtime)

    def share(**query: Any) -> float:
        """Returns the hash's share in the evidence."""
        hits = find(runtime, plain_picture("red"), **query).hits
        logs = [np.log1p([-hit.score, *(-v.score for v in hit.models.values())]) for hit in hits]
        both, first, second = np.array(logs).T
        assert list(hits[0].models) == [COLOURS, PHASH]
        shares = (both - first) / (second - first)
        assert shares == pytest.approx(np.full(len(shares), shares[0]), abs=1e-2)
        return float(np.median(shares))

    def weigh(library: Library) -> Library:
        library.weights = {PHASH: 0.25}
        return library

    assert share() == pytest.approx(0.0, abs=1e-3), "the card's"
    assert share(mode="near") == pytest.approx(0.5, abs=1e-3)
    assert share(mode="near", weights={PHASH: 3.0}) == pytest.approx(0.75, abs=1e-3)
    runtime.catalog.change_library("known", weigh)
    assert share() == pytest.approx(0.2, abs=1e-3)
    assert share(weights={COLOURS: 0.0}) == pytest.approx(1.0, abs=1e-3)
    assert share(mode="near") == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("metric", FLOAT_METRICS)
def test_counter_examples_push_their_own_kind_back(
    runtime: Runtime, write: Callable[..., Known], metric: Metric
) -> None:
    rows = at_angles([0, 90, -30, 30])
    known = write({COLOURS: rows}, metric=metric.value)
    known.put(runtime)

    liked = find(runtime, positive=[id_of(0)])
    disliked = find(runtime, positive=[id_of(0)], negative=[id_of(1)])

    # The two beside it are as near; of the direction less a share of the other, one is nearer.
    query = rows[0] - 0.2 * rows[1]
    query /= np.linalg.norm(query)
    expected = true_distances(rows, query, metric)
    assert numbers(known, disliked) == [2, 3]
    distances = {hit.image.id: hit.models[COLOURS].distance for hit in disliked.hits}
    assert distances == pytest.approx({id_of(n): expected[n] for n in (2, 3)}, abs=1e-5)
    first, second, other = (hit.models[COLOURS].distance for hit in liked.hits)
    assert first == pytest.approx(second, abs=1e-6)
    assert known.numbers([liked.hits[2].image.id]) == [1]
    assert other != pytest.approx(first, abs=0.1)


def test_of_hashes_examples_vote_bit_by_bit(runtime: Runtime, write: Callable[..., Known]) -> None:
    known = write({PHASH: of_bits([0, 8, 24, 64, 9])})
    known.put(runtime)

    # Of three the middle one has each bit as two have it; counter-examples weigh a fifth.
    middle = find(runtime, positive=[id_of(0), id_of(1), id_of(2)], include_query=True)
    steady = find(
        runtime, positive=[id_of(1)], negative=[id_of(3), id_of(2)], include_query=True, k=2
    )

    # A bit that as many have as have not is not set.
    two = find(runtime, positive=[id_of(0), id_of(2)], include_query=True)
    assert numbers(known, two) == [0, 1, 4, 2, 3]
    assert numbers(known, middle) == [1, 4, 0, 2, 3]
    assert [hit.models[PHASH].distance for hit in middle.hits] == [0, 1, 8, 16, 56]
    assert numbers(known, steady) == [1, 4]
    assert [hit.models[PHASH].distance for hit in steady.hits] == [0, 1]


@pytest.mark.parametrize(("metric", "far"), [(Metric.L2, 1.0), (Metric.IP, 0.0)])
def test_examples_that_cancel_each_other_out_find_none_nearer_than_another(
    runtime: Runtime, write: Callable[..., Known], metric: Metric, far: float
) -> None:
    rows = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    write({COLOURS: rows}, metric=metric.value).put(runtime)
    result = find(runtime, positive=[id_of(0), id_of(1)], include_query=True)
    assert [hit.models[COLOURS].distance for hit in result.hits] == [far] * 4


def test_of_a_stored_picture_a_region_and_its_copies_are_looked_for_in_its_own_bytes(
    runtime: Runtime, write: Callable[..., Known]
) -> None:
    known = write({COLOURS: at_angles(range(0, 95, 5))})
    known.put(runtime)
    content = framed("red", "lime")
    runtime.blobs.put(image_key(library_id(runtime, "known"), id_of(18)), content)
    middle, corner = (0.2, 0.2, 0.8, 0.8), (0, 0, 0.05, 0.05)
    queries: list[dict[str, Any]] = [
        {"mode": "near"},
        {"region": middle},
        {"region": corner},
        {"region": middle, "mode": "near"},
    ]
    for query in queries:
        sent = find(runtime, content, **query)
        stored = find(runtime, image_id=id_of(18), include_query=True, **query)
        assert stored.by_model == sent.by_model
    # Its vector is green's; what is asked for is red within, and green at the edge.
    [within] = find(runtime, image_id=id_of(18), region=middle, k=1).hits
    [edge] = find(runtime, image_id=id_of(18), region=corner, k=1, include_query=True).hits
    [vector] = find(runtime, image_id=id_of(18), k=1).hits
    assert known.numbers([hit.image.id for hit in (within, edge, vector)]) == [0, 18, 17]


def test_what_is_not_there_cannot_be_looked_for(
    runtime: Runtime, write: Callable[..., Known], cards: dict[str, Card]
) -> None:
    rows = at_angles(range(9))
    known = write({COLOURS: rows, TINT: rows})
    known.put(runtime, without=[7])
    runtime.vectors.delete(collection_of(known.library, cards[TINT]), [id_of(5)])
    for query in ({"image_id": id_of(7)}, {"positive": [id_of(0)], "negative": [id_of(7)]}):
        with pytest.raises(ImageNotFound, match="has no image"):
            find(runtime, **query)
    for query in ({"image_id": id_of(5)}, {"positive": [id_of(0), id_of(5)]}):
        with pytest.raises(ImageNotFound, match="'tint' has no embedding"):
            find(runtime, **query)
    assert find(runtime, image_id=id_of(5), models=[COLOURS]).hits
    with pytest.raises(BadRequest, match="text encoder"):
        find(runtime, text="red", models=[TINT])
    runtime.sent_pictures.delete(keys.query_picture("q"))
    with pytest.raises(BadRequest, match="waited too long"):
        runtime.searches.search("q", SearchQuery(library="known"), time.time(), NumSent(1))


@pytest.mark.parametrize("k", [3, 7, 20])
def test_models_agree_as_far_as_the_first_of_their_lists_do(
    runtime: Runtime, write: Callable[..., Known], k: int
) -> None:
    Circle(write, Metric.L2, COLOURS).known.put(runtime)
    result = find(runtime, image_id=id_of(0), k=k, weights={COLOURS: 1.0, PHASH: 1.0})
    first, second = ([one.image_id for one in some] for some in result.by_model.values())
    assert len(first) == len(second) == k
    assert result.agreement.overlap_at_k == pytest.approx(len({*first} & {*second}) / k)
    expected = agreement({"a": first, "b": second}, k)
    assert expected is not None
    assert result.agreement.rank_correlation == expected.rank_correlation
    alone = find(runtime, image_id=id_of(0), k=k, models=[COLOURS]).agreement
    assert (alone.overlap_at_k, alone.rank_correlation) == (None, None)
    # The hash of a card weighs nothing.
    uncounted = find(runtime, image_id=id_of(0), k=k).agreement
    assert (uncounted.overlap_at_k, uncounted.rank_correlation) == (None, None)


@pytest.mark.parametrize("n_images", [0, 9])
def test_a_search_says_how_many_images_its_library_has(
    runtime: Runtime, write: Callable[..., Known], n_images: int
) -> None:
    known = Circle(write, Metric.L2, COLOURS).known
    known.put(runtime, without=range(n_images, len(known.ids)))
    assert find(runtime, plain_picture("red"), k=1).library_images == n_images


def test_a_search_says_where_its_time_went(runtime: Runtime, write: Callable[..., Known]) -> None:
    Circle(write, Metric.L2, COLOURS).known.put(runtime)
    runtime.sent_pictures.set(keys.query_picture("q"), plain_picture("red"))
    query = SearchQuery(library="known")
    began, waited_s = time.perf_counter(), 5.0
    timing = runtime.searches.search("q", query, time.time() - waited_s, NumSent(1)).timing_ms
    took_ms = (time.perf_counter() - began) * 1000
    stages = (timing.decode, timing.embed, timing.search, timing.fuse, timing.rerank)
    # The server alone takes more than a tenth of a millisecond.
    assert timing.search > 0.1
    assert min(stages) > 0.0
    assert sum(stages) <= took_ms + 0.1
    assert waited_s * 1000 <= timing.queued < waited_s * 1000 + took_ms
    assert timing.total == pytest.approx(timing.queued + sum(stages), abs=0.1)


# Groups ----------------------------------------------------------------------------------------


def test_of_a_group_the_best_alone_is_shown_and_kinds_of_values_are_told_apart(
    runtime: Runtime, write: Callable[..., Known]
) -> None:
    values: list[Any] = [0, True, 1, "1", 1.5, True, None, ["a"], None, ["a", "b"], ["a"], 1, "1"]
    values += [1.0, -0.0, 2**53 + 1, 2.0**53, 1e23, 10**23, False]
    fields = [{} if value is None else {"album": value} for value in values]
    known = write({COLOURS: at_angles(range(len(values)))}, metadata=fields)
    known.put(runtime)
    for n_candidates in (2, 100):
        deep = with_small_blocks(runtime, n_candidates)
        grouped = find(deep, image_id=id_of(0), group_by="album")
        assert numbers(known, grouped) == [1, 2, 3, 4, 6, 7, 8, 9, 14, 15, 16, 17, 19]
        assert [hit.rank for hit in grouped.hits] == list(range(1, 14))
        some = find(deep, image_id=id_of(0), group_by="album", k=3, offset=3)
        assert numbers(known, some) == [4, 6, 7]


def test_what_is_the_images_own_makes_groups_unless_it_is_in_backquotes(
    runtime: Runtime, write: Callable[..., Known]
) -> None:
    formats = ["a", "b", "a", "c", "b"]
    known = write({COLOURS: at_angles(range(5))}, metadata=[{"format": one} for one in formats])
    known.put(runtime)
    asked: dict[str, Any] = {"image_id": id_of(0), "include_query": True}
    for group_by, shown in (("format", [0]), ("`format`", [0, 1, 3]), ("name", [0, 1, 2, 3, 4])):
        assert numbers(known, find(runtime, group_by=group_by, **asked)) == shown
    wanted = 'format == "image/jpeg" and `format` == "b" and width == 2 and name > "1"'
    assert numbers(known, find(runtime, filter=wanted, **asked)) == [1, 4]


# How deep --------------------------------------------------------------------------------------


def depths_of(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, **query: Any
) -> tuple[list[int], SearchResult]:
    """Searches. Returns how many candidates a model was asked for, each time, and what is found."""
    nearest, asked = runtime.vectors.nearest, []

    def recorded(collection: Collection, rows: Any, limit: int, **options: Any) -> Any:
        if options.get("among") is None:
            asked.append(limit)
        return nearest(collection, rows, limit, **options)

    with monkeypatch.context() as patch:
        patch.setattr(runtime.vectors, "nearest", recorded)
        result = find(runtime, models=[COLOURS], **query)
    return asked, result


@pytest.mark.parametrize(
    ("query", "depths"),
    [
        ({"k": 2}, [2]),
        ({"k": 3}, [2, 8]),
        ({"k": 8}, [2, 8]),
        ({"k": 9}, [2, 8, 32]),
        ({"k": 1000}, [2, 8, 32, 128]),
        # What ends a search early, and what does not yet.
        ({"max_distance": {COLOURS: 0.001}}, [2]),
        ({"max_distance": {COLOURS: 0.1}}, [2, 8]),
        ({"max_distance": {COLOURS: 4.0}}, [2, 8, 32, 128]),
        ({"min_score": 0.999999}, [2, 8]),
        ({"min_score": 0.999}, [2, 8, 32]),
        ({"min_score": 0.0}, [2, 8, 32, 128]),
    ],
)
def test_a_ranking_goes_as_deep_as_it_must_and_no_deeper(
    runtime: Runtime,
    write: Callable[..., Known],
    monkeypatch: pytest.MonkeyPatch,
    query: dict[str, Any],
    depths: list[int],
) -> None:
    Circle(write, Metric.L2, COLOURS).known.put(runtime)
    runtime = with_small_blocks(runtime, 2)

    asked, _ = depths_of(runtime, monkeypatch, image_id=id_of(0), **query)

    assert asked == [depth + 1 for depth in depths], "one more for the query itself"


def test_a_model_that_has_few_pictures_ends_a_ranking_that_it_limits(
    runtime: Runtime, write: Callable[..., Known], cards: dict[str, Card]
) -> None:
    rows = at_angles(range(20))
    known = write({COLOURS: rows, TINT: rows})
    known.put(runtime)
    runtime.vectors.delete(collection_of(known.library, cards[TINT]), known.ids[3:])
    runtime = with_small_blocks(runtime, 2)
    asked: dict[str, Any] = {"max_distance": {TINT: 4.0}, "weights": {COLOURS: 1.0, TINT: 1.0}}
    result = find(runtime, image_id=id_of(0), **asked)
    assert numbers(known, result) == [1, 2]


def test_no_model_is_asked_for_more_than_a_server_gives(
    runtime: Runtime, write: Callable[..., Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    circle = Circle(write, Metric.L2, COLOURS)
    circle.known.put(runtime)
    runtime = with_small_blocks(runtime, 2)
    monkeypatch.setattr(searches_module, "MAX_DEPTH", 10)

    asked, result = depths_of(runtime, monkeypatch, image_id=id_of(0))

    assert asked == [3, 9, 11]
    assert numbers(circle.known, result) == circle.order[:10]


def test_what_falls_out_of_a_block_competes_in_the_next(
    runtime: Runtime, write: Callable[..., Known]
) -> None:
    """Two models, and the first that each lists is the last of the other."""
    one = [1.0, 0.99, 0.98, *[0.97] * 6, *[0.5] * 6, *[0.8] * 6, 0, 0]
    two = [1.0, 0, 0, *[0.5] * 6, *[0.97] * 6, *[0.8] * 6, 0.99, 0.98]
    # A little apart, so that the order is known.
    slope = np.arange(len(one)) * 1e-4
    rows = {
        COLOURS: at_cosines((one - slope * (slope > 0)).tolist()),
        TINT: at_cosines((two - slope).tolist()),
    }
    rows[TINT][0] = rows[COLOURS][0]
    known = write(rows, metric="COSINE")
    known.put(runtime)
    runtime = with_small_blocks(runtime, 2)

    result = find(runtime, image_id=id_of(0), fusion="weighted")

    order = numbers(known, result)
    block = [number for number in order[:2] if number in {1, 2, 21, 22}]
    assert len(block) == 2, "of the two that each listed"
    # Of the next eight, two places are taken: two of the twelve wait, and the middle ones pass.
    assert set(order[2:8]) < {*range(3, 15)}
    assert set(order[8:14]) == {*range(15, 21)}
    assert set(order[14:20]) == {*range(3, 15)} - set(order[2:8])


# Neighbours ------------------------------------------------------------------------------------

# Two pictures near the first, one of which has eleven more of its kind behind it. The other, which
# is nearer than those, has a kind of its own on the other side.
KIN = np.linspace(12, 17, 11).tolist()
STRAYS = np.linspace(-20, -15, 11).tolist()
CROWD = [0, 8, *KIN, -11, *STRAYS]
STRAY = 13


@pytest.fixture
def crowd(runtime: Runtime, write: Callable[..., Known]) -> Known:
    rng = np.random.default_rng(5)
    moved = [0, *(rng.permutation(CROWD[1:]) * 1.5)]
    n_set = [round(32 + angle * 0.9) for angle in CROWD]
    rows = {COLOURS: at_angles(CROWD), TINT: at_angles(moved), PHASH: of_bits(n_set)}
    known = write(rows, metric="IP")
    known.put(runtime)
    return known


def reranked(known: Known, fused: list[int], shares: dict[str, float]) -> list[int]:
    """A fused order, re-ranked by what the embeddings say of each pair."""
    some = [0, *fused]
    alike = np.zeros((len(some),) * 2)
    for name, share in shares.items():
        rows = known.rows[name][some]
        if rows.dtype == np.uint8:
            rows = np.where(np.unpackbits(rows, axis=1), 0.125, -0.125)
        alike += share * np.clip(rows.astype(np.float64) @ rows.T, 0.0, 1.0)
    return [fused[place] for place in rerank(alike)]


@pytest.mark.parametrize(
    "weights",
    [
        {COLOURS: 1.0},
        {TINT: 1.0},
        {PHASH: 1.0},
        {COLOURS: 3.0, TINT: 1.0},
        {COLOURS: 1.0, TINT: 3.0},
        {COLOURS: 2.0, PHASH: 1.0},
    ],
)
def test_pictures_that_are_each_others_neighbours_move_up(
    runtime: Runtime, crowd: Known, weights: dict[str, float]
) -> None:
    all_weights = {COLOURS: 0.0, TINT: 0.0, PHASH: 0.0} | weights
    asked: dict[str, Any] = {"image_id": id_of(0), "weights": all_weights}
    fused = numbers(crowd, find(runtime, rerank="none", **asked))
    shares = {name: weight / sum(weights.values()) for name, weight in weights.items()}
    expected = reranked(crowd, fused, shares)
    assert expected != fused

    result = find(runtime, rerank="neighbours", **asked)

    assert numbers(crowd, result) == expected
    if weights == {COLOURS: 1.0}:
        assert fused[1] == STRAY
        assert expected.index(STRAY) > 5
        assert [hit.rank for hit in result.hits] == list(range(1, len(CROWD)))
        assert SearchQuery().rerank == "neighbours"


@pytest.mark.parametrize(
    ("query", "sent", "is_changed"),
    [
        ({}, plain_picture("red"), True),
        ({"mode": "near"}, plain_picture("red"), False),
        ({"text": "red"}, None, False),
    ],
)
def test_neither_words_nor_copies_are_put_into_another_order(
    runtime: Runtime,
    write: Callable[..., Known],
    query: dict[str, Any],
    sent: bytes | None,
    is_changed: bool,
) -> None:
    known = write(dict.fromkeys((COLOURS, TINT), at_angles(CROWD)))
    known.put(runtime)

    plain, whole = (find(runtime, sent, rerank=one, **query) for one in ("none", "neighbours"))

    by_angle = sorted(range(len(CROWD)), key=lambda number: abs(CROWD[number]))
    assert numbers(known, plain) == by_angle
    assert (numbers(known, whole) != by_angle) == is_changed
    assert whole.by_model.keys() == ({COLOURS} if "text" in query else {COLOURS, TINT})


def test_the_best_alone_are_put_into_another_order(
    runtime: Runtime, crowd: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_few = monkeypatch.context()
    asked: dict[str, Any] = {"image_id": id_of(0), "models": [COLOURS]}
    fused = numbers(crowd, find(runtime, rerank="none", **asked))

    with with_few as patch:
        patch.setattr(searches_module, "N_RERANKED", 14)
        order = numbers(crowd, find(runtime, rerank="neighbours", **asked))
    runtime = with_small_blocks(runtime, 14)
    in_blocks = numbers(crowd, find(runtime, rerank="neighbours", **asked))

    first = reranked(crowd, fused[:14], {COLOURS: 1.0})
    assert fused[:14] != first
    assert order == first + fused[14:]
    assert in_blocks == order, "of what comes later none moves"
    assert reranked(crowd, fused, {COLOURS: 1.0}) != order


# Duplicates ------------------------------------------------------------------------------------

# Hashes that differ by bits, and the angles of their embeddings.
COPIES = [(30, 0), (40, 50), (41, -10), (20, 52), (25, -56), (5, 0)]


def test_duplicates_are_near_by_hash_and_alike_by_a_model(
    runtime: Runtime, write: Callable[..., Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    bits, angles = zip(*COPIES, strict=True)
    write({COLOURS: at_angles(angles), PHASH: of_bits(bits)}).put(runtime)
    for n_rows in (2, 1000):
        monkeypatch.setattr(duplicates_module, "READ_ROWS", n_rows)
        duplicates = runtime.near_duplicates.find(DuplicatesQuery(library="known"))
        # Ten bits are near and eleven are not; the cosine of 52 degrees is 0.616, of 56 0.559.
        assert [set(group) for group in duplicates.groups] == [{id_of(n) for n in (0, 1, 3)}]
        assert duplicates.groups[0][0] == id_of(0)
        assert (duplicates.n_images, duplicates.n_groups) == (6, 1)
        assert duplicates.confirmed_by == COLOURS
    strict = runtime.near_duplicates.find(DuplicatesQuery(library="known", max_distance=9))
    assert strict.groups == []
    strictest = DuplicatesQuery(library="known", max_distance=0)
    assert runtime.near_duplicates.find(strictest).groups == []


def test_a_picture_whose_embedding_is_gone_is_no_duplicate(
    runtime: Runtime, write: Callable[..., Known], cards: dict[str, Card]
) -> None:
    known = write({COLOURS: at_angles([1, 1, 1, 1]), PHASH: of_bits([30, 30, 31, 33])})
    known.put(runtime)
    runtime.vectors.delete(collection_of(known.library, cards[COLOURS]), [id_of(2)])
    duplicates = runtime.near_duplicates.find(DuplicatesQuery(library="known"))
    assert [set(group) for group in duplicates.groups] == [{id_of(n) for n in (0, 1, 3)}]


def test_without_a_model_hashes_decide_alone_and_without_hashes_nothing(
    runtime: Runtime, write: Callable[..., Known], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = write({PHASH: of_bits([20, 21, 40, 41, 42])})
    known.put(runtime)
    duplicates = runtime.near_duplicates.find(DuplicatesQuery(library="known"))
    assert [set(group) for group in duplicates.groups] == [
        {id_of(n) for n in (2, 3, 4)},
        {id_of(n) for n in (0, 1)},
    ]
    assert duplicates.confirmed_by is None
    monkeypatch.setattr(duplicates_module, "MAX_GROUPS", 1)
    cut = runtime.near_duplicates.find(DuplicatesQuery(library="known"))
    assert (cut.n_groups, cut.groups) == (2, duplicates.groups[:1])
    with pytest.raises(BadRequest, match="only hashes, which see no crops"):
        runtime.near_duplicates.find(DuplicatesQuery(library="known", verify=True))
    runtime.catalog.remove_library("known")
    write({COLOURS: at_angles([0, 1])}).put(runtime)
    with pytest.raises(BadRequest, match="no model that makes hashes"):
        runtime.near_duplicates.find(DuplicatesQuery(library="known"))
