"""What a search can ask for, on the real Valkey, Milvus and models."""

from __future__ import annotations

import io
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from PIL import Image, ImageOps
from support.embedding import names_of, outcomes, set_anew, targets_of
from support.every_milvus import on_every_milvus
from support.photos import jpeg
from support.requests import form_body

from twinlens.shared.blobs import image_id_of, image_key
from twinlens.shared.errors import ImageNotFound, PictureTooLarge
from twinlens.shared.messages import now
from twinlens.shared.queries import CompareQuery, CopyEvidence, DuplicatesQuery, SearchQuery
from twinlens.shared.redis import keys
from twinlens.workers.query.examples import NumSent

if TYPE_CHECKING:
    from support.requests import Client

    from twinlens.shared.queries import SearchResult
    from twinlens.workers.process.runtime import Runtime

pytestmark = on_every_milvus

N_MANY = 60
LITE0, PHASH = "efficientnet-lite0", "phash"


def scene(number: int) -> bytes:
    """Draws a picture of a colour and a pattern of its own."""
    picture = Image.effect_mandelbrot(
        (64, 64), (-2 + number / N_MANY, -1.5, 1, 1.5 - number / (2 * N_MANY)), 20
    )
    colour = (4 * number % 256, (255 - 4 * number) % 256, 40)
    return jpeg(ImageOps.colorize(picture, "black", "white", colour), quality=80)


class Filled(NamedTuple):
    """What a library is made of, beside its vectors in Milvus."""

    records: dict[bytes, bytes]  # of Redis, by key
    blob_dir: Path
    ids: list[str]


@pytest.fixture(scope="module")
def filled() -> dict[str, Filled]:
    """The library `many`, by server: it takes seconds to be embedded, and none to be put back."""
    return {}


@pytest.fixture
def many(
    client: Client,
    runtime: Runtime,
    milvus_uri: str,
    filled: dict[str, Filled],
    kept_collections: set[str],
) -> list[str]:
    """Images of two cities and many places: ids by place. Tests do not change their vectors."""
    redis, blob_dir = runtime.sent_pictures, runtime.settings.blob_dir
    if milvus_uri not in filled:
        ids = fill(client, runtime)
        names: Any = [keys.LIBRARIES.encode(), *redis.scan_iter("tl:library:*")]
        kept_collections |= runtime.catalog.library("default").all_collections
        records: dict[bytes, Any] = {name: redis.dump(name) for name in names}
        filled[milvus_uri] = Filled(records, blob_dir, ids)
    known = filled[milvus_uri]
    for key, value in known.records.items():
        redis.restore(key, 0, value, replace=True)
    if known.blob_dir != blob_dir:
        shutil.copytree(known.blob_dir, blob_dir, dirs_exist_ok=True)
    return known.ids


def fill(client: Client, runtime: Runtime) -> list[str]:
    parts: list[Any] = []
    contents = [scene(number) for number in range(N_MANY)]
    for number, content in enumerate(contents):
        fields = {"place": number, "city": "Paris" if number % 3 else "Rome"}
        if number < 5:
            fields |= {"author": f'O\'Neil "{number}"'}
        parts.append(("metadata", (None, json.dumps(fields))))
        parts.append(("files", (f"{number}.jpg", content)))
    job = upload(client, parts)
    for chunk in range(runtime.jobs.get(job).n_chunks):
        assert set(outcomes(runtime, job, chunk)) == {"succeeded"}
    return [image_id_of(content) for content in contents]


def upload(client: Client, parts: list[Any]) -> str:
    answer = client.post("/v1/images/bulk", **form_body(parts))
    assert answer.status_code == 202, answer.text
    return str(answer.json["id"])


def find(runtime: Runtime, sent: list[bytes] | None = None, **query: Any) -> SearchResult:
    pictures = sent or []
    for number, content in enumerate(pictures):
        runtime.sent_pictures.set(keys.query_picture("q", number), content)
    n_negative = query.pop("n_negative", 0)
    counted = NumSent(len(pictures) - n_negative, n_negative)
    return runtime.searches.search("q", SearchQuery(**query), time.time(), counted)


def ids_of(result: SearchResult) -> list[str]:
    return [hit.image.id for hit in result.hits]


def test_the_pictures_of_a_query_are_not_decoded_if_they_are_too_much_together(
    runtime: Runtime, many: list[str]
) -> None:
    runtime = set_anew(runtime, max_picture_px=64 * 64)
    sent = [scene(number) for number in range(4)]
    assert many[0] in ids_of(find(runtime, sent[:3], n_negative=1))
    with pytest.raises(PictureTooLarge, match="as much as 16,384 pixels together"):
        find(runtime, sent, n_negative=1)


@pytest.mark.parametrize("rerank", ["neighbours", "none"])
def test_pages_are_one_ranking_cut_into_pieces(
    runtime: Runtime, many: list[str], rerank: str
) -> None:
    # With few candidates the ranking goes deeper three times.
    runtime = set_anew(runtime, search_candidates=5)
    asked: dict[str, Any] = {"image_id": many[0], "rerank": rerank}
    whole = find(runtime, k=100, **asked)
    assert sorted(ids_of(whole)) == sorted(many[1:])
    for size in (7, 16):
        pages = [find(runtime, k=size, offset=start, **asked) for start in range(0, 60, size)]
        assert [one for page in pages for one in ids_of(page)] == ids_of(whole)
        ranks = [hit.rank for page in pages for hit in page.hits]
        assert ranks == list(range(1, N_MANY))
    assert find(runtime, k=5, offset=1000, **asked).hits == []


def test_a_filter_narrows_every_models_list(runtime: Runtime, many: list[str]) -> None:
    result = find(runtime, image_id=many[0], k=100, filter='city == "Rome" and place >= 30')
    expected = {many[place] for place in range(30, N_MANY) if place % 3 == 0}
    assert set(ids_of(result)) == expected
    for ranking in result.by_model.values():
        assert {one.image_id for one in ranking} == expected
    quoted = find(runtime, image_id=many[9], filter="author == 'O\\'Neil \"3\"'")
    assert ids_of(quoted) == [many[3]]
    assert find(runtime, image_id=many[0], filter='city == "Oslo"').hits == []


def test_distances_and_scores_have_limits(runtime: Runtime, many: list[str]) -> None:
    whole = find(runtime, image_id=many[0], k=100, rerank="none")
    middle = whole.hits[20]
    nearer = find(runtime, image_id=many[0], k=100, rerank="none", min_score=middle.score)
    assert ids_of(nearer) == ids_of(whole)[:21]
    limit = middle.models[LITE0].distance
    within = find(runtime, image_id=many[0], k=100, rerank="none", max_distance={LITE0: limit})
    expected = [h.image.id for h in whole.hits if h.models[LITE0].distance <= limit]
    assert ids_of(within) == expected
    # A list that ends before the limit is gone through to its end.
    runtime = set_anew(runtime, search_candidates=5)
    deep = find(runtime, image_id=many[0], k=100, rerank="none", max_distance={LITE0: limit})
    assert set(ids_of(deep)) == set(expected)


def test_of_a_group_the_best_alone_is_shown(runtime: Runtime, many: list[str]) -> None:
    whole = find(runtime, image_id=many[0], k=100)
    grouped = find(runtime, image_id=many[0], k=100, group_by="city")
    cities = [hit.image.metadata["city"] for hit in whole.hits]
    firsts = [whole.hits[cities.index(city)].image.id for city in dict.fromkeys(cities)]
    assert ids_of(grouped) == firsts
    alone = find(runtime, image_id=many[0], k=100, group_by="nothing")
    assert ids_of(alone) == ids_of(whole)


def test_images_can_be_left_out_and_the_query_let_in(runtime: Runtime, many: list[str]) -> None:
    first, second, *_ = ids_of(find(runtime, image_id=many[0]))
    without = find(runtime, image_id=many[0], k=N_MANY, exclude=[first])
    assert first not in ids_of(without)
    assert len(without.hits) == N_MANY - 2
    assert second in ids_of(without)
    with_itself = find(runtime, image_id=many[0], include_query=True)
    assert ids_of(with_itself)[0] == many[0]


def test_a_region_is_looked_for_as_a_picture_of_its_own(
    runtime: Runtime, many: list[str], client: Client
) -> None:
    pair = Image.new("RGB", (128, 64))
    for place, number in enumerate((10, 50)):
        with Image.open(io.BytesIO(scene(number))) as half:
            pair.paste(half, (64 * place, 0))
    content = jpeg(pair, quality=95)
    for region, number in (((0, 0, 0.5, 1), 10), ((0.5, 0, 1, 1), 50)):
        result = find(runtime, [content], region=region, models=[LITE0])
        assert ids_of(result)[0] == many[number]
    with pytest.raises(ImageNotFound):
        find(runtime, image_id="0" * 64, region=(0, 0, 0.5, 1))
    corner = find(runtime, image_id=many[10], region=(0, 0, 1, 0.9), include_query=True)
    assert many[10] in ids_of(corner)[:3]


def test_examples_are_averaged_and_counter_examples_taken_off(
    runtime: Runtime, many: list[str]
) -> None:
    one = find(runtime, [scene(10)], k=3, rerank="none")
    stored = find(runtime, image_id=many[10], include_query=True, k=3, rerank="none")
    assert ids_of(one) == ids_of(stored)
    between = find(runtime, [scene(8), scene(12)], k=5, rerank="none")
    by_ids = find(runtime, positive=[many[8], many[12]], include_query=True, k=5, rerank="none")
    assert ids_of(between) == ids_of(by_ids)
    assert {many[8], many[12]} <= set(ids_of(between))
    liked = find(runtime, positive=[many[30]], include_query=True, k=N_MANY, rerank="none")
    disliked = find(
        runtime, [scene(30), scene(50)], n_negative=1, include_query=True, k=N_MANY, rerank="none"
    )
    assert ids_of(disliked).index(many[50]) > ids_of(liked).index(many[50])
    assert ids_of(disliked)[0] == many[30]


def test_each_fusion_ranks_by_its_own_rule(runtime: Runtime, many: list[str]) -> None:
    equal = dict.fromkeys(names_of(runtime), 1.0)
    for fusion, rule in (("max", max), ("min", min)):
        asked: dict[str, Any] = {"fusion": fusion, "weights": equal, "rerank": "none"}
        result = find(runtime, image_id=many[0], k=100, **asked)
        for hit in result.hits:
            assert hit.score == pytest.approx(rule(view.score for view in hit.models.values()))
    only = dict.fromkeys(equal, 0.0) | {PHASH: 1.0}
    alone = find(runtime, image_id=many[0], weights=only, k=100, rerank="none")
    # Equal distances may stand in any order in the model's own list.
    assert [hit.models[PHASH].distance for hit in alone.hits] == [
        one.distance for one in alone.by_model[PHASH]
    ]


def test_a_library_is_measured_and_its_scores_change_their_meaning(
    runtime: Runtime, many: list[str]
) -> None:
    before = find(runtime, image_id=many[0], k=100, rerank="none")
    runtime.calibrations.keep()
    known = runtime.catalog.calibrations("default")
    assert len(known) == len(targets_of(runtime))
    after = find(runtime, image_id=many[0], k=100, rerank="none")
    assert after.by_model == before.by_model
    assert [hit.models[LITE0].score for hit in after.hits] != [
        hit.models[LITE0].score for hit in before.hits
    ]
    scores = sorted(hit.models[LITE0].score for hit in after.hits)
    assert scores[0] < 0.5 < scores[-1]
    runtime.calibrations.keep()
    assert runtime.catalog.calibrations("default") == known, "nothing has grown"


def test_copies_and_edits_come_first_when_they_are_looked_for(
    runtime: Runtime, library: dict[str, str], small_photos: dict[str, bytes]
) -> None:
    for name, content in small_photos.items():
        with Image.open(io.BytesIO(content)) as photo:
            edits = {
                "mirrored": ImageOps.mirror(photo),
                "turned": photo.transpose(Image.Transpose.ROTATE_90),
                "grey": ImageOps.grayscale(photo).convert("RGB"),
                "small": photo.resize((64, 64)),
            }
        for edit, picture in edits.items():
            result = find(runtime, [jpeg(picture, quality=60)], mode="near")
            assert ids_of(result)[0] == library[name], edit
            assert result.timing_ms.rerank == 0
    stored = find(runtime, image_id=library["coffee.png"], mode="near", include_query=True)
    assert ids_of(stored)[0] == library["coffee.png"]


def test_duplicates_are_grouped(
    client: Client, runtime: Runtime, library: dict[str, str], small_photos: dict[str, bytes]
) -> None:
    with Image.open(io.BytesIO(small_photos["coffee.png"])) as photo:
        copies = [jpeg(photo, quality=quality) for quality in (50, 60)]
    files = [("files", (f"{n}.jpg", content)) for n, content in enumerate(copies)]
    assert set(outcomes(runtime, upload(client, files))) == {"succeeded"}
    duplicates = runtime.near_duplicates.find(DuplicatesQuery())
    assert (duplicates.n_images, duplicates.n_groups) == (6, 1)
    assert set(duplicates.groups[0]) == {library["coffee.png"], *map(image_id_of, copies)}
    assert duplicates.confirmed_by == LITE0
    assert runtime.near_duplicates.find(DuplicatesQuery(max_distance=0)).n_images == 6


def test_crops_and_turns_join_their_group_where_they_are_proven(
    client: Client, runtime: Runtime, library: dict[str, str], small_photos: dict[str, bytes]
) -> None:
    name = "coffee.png"
    with Image.open(io.BytesIO(small_photos[name])) as photo:
        width, height = photo.size
        canvas = Image.new("RGB", (2 * width, 2 * height), "teal")
        canvas.paste(photo, (width // 3, height // 2))
        edits: dict[str, Image.Image] = {
            "crop": photo.crop((width // 5, height // 5, width, height)),
            "extended": canvas,
            "mirrored": ImageOps.mirror(photo),
            "turned": photo.transpose(Image.Transpose.ROTATE_90),
            "recompressed": photo,
            "smaller": photo.resize((width // 2, height // 2)),
        }
    copies = {kind: jpeg(picture) for kind, picture in edits.items()}
    for kind, content in copies.items():
        files = [("files", (f"{kind}.jpg", content))]
        assert outcomes(runtime, upload(client, files)) == ["succeeded"]
    ids = {kind: image_id_of(content) for kind, content in copies.items()}

    [hashed] = runtime.near_duplicates.find(DuplicatesQuery()).groups
    assert set(hashed) == {library[name], ids["recompressed"], ids["smaller"]}
    proven = runtime.near_duplicates.find(DuplicatesQuery(verify=True))
    [group] = proven.groups
    assert set(group) == {library[name], *ids.values()}
    first = group[0]
    assert first in hashed, "the others are near it"
    assert proven.n_unverified == 0
    for kind in ("crop", "extended", "mirrored", "turned"):
        assert proven.kinds[ids[kind]][0] == kind
        assert proven.evidence[ids[kind]].verified
    assert proven.evidence[ids["turned"]].turned == pytest.approx(90, abs=3)
    left, top, right, bottom = proven.evidence[ids["crop"]].region or (0, 0, 0, 0)
    assert (left, top, right, bottom) == pytest.approx((0.2, 0.2, 1, 1), abs=0.08)
    for one in {*hashed} - {first}:
        [kind] = proven.kinds[one]
        assert kind in {"recompressed", "smaller", "larger"}


def test_two_pictures_are_compared(
    runtime: Runtime, library: dict[str, str], small_photos: dict[str, bytes]
) -> None:
    runtime.sent_pictures.set(keys.query_picture("t", 0), small_photos["coffee.png"])
    same = runtime.comparisons.compare("t", CompareQuery(image_ids=[library["coffee.png"]]))
    assert set(same.models) == set(names_of(runtime))
    for one in same.models.values():
        assert one.distance == pytest.approx(0, abs=1e-4)
        assert one.score > 0.99
    two = CompareQuery(image_ids=[library["coffee.png"], library["rocket.jpg"]])
    other = runtime.comparisons.compare("t", two)
    searched = find(runtime, image_id=library["coffee.png"], rerank="none")
    [hit] = [hit for hit in searched.hits if hit.image.id == library["rocket.jpg"]]
    assert other.score == pytest.approx(hit.score, abs=1e-4)
    assert other.score < same.score


def test_a_search_says_up_to_when_all_was_found(
    client: Client, runtime: Runtime, library: dict[str, str], small_photos: dict[str, bytes]
) -> None:
    began = now()
    assert find(runtime, image_id=library["coffee.png"]).indexed_through >= began
    job_id = upload(client, [("files", ("again.jpg", small_photos["coffee.png"]))])
    waiting = find(runtime, image_id=library["coffee.png"])
    assert waiting.indexed_through == runtime.jobs.get(job_id).created_at
    outcomes(runtime, job_id)
    assert find(runtime, image_id=library["coffee.png"]).indexed_through > waiting.indexed_through


def test_parts_of_a_picture_are_proven_and_come_first(
    runtime: Runtime, library: dict[str, str], small_photos: dict[str, bytes]
) -> None:
    for name, content in small_photos.items():
        with Image.open(io.BytesIO(content)) as photo:
            width, height = photo.size
            part = photo.crop((0, 0, 3 * width // 4, 3 * height // 4))
        first, *others = find(runtime, [jpeg(ImageOps.mirror(part))], mode="near").hits
        assert first.image.id == library[name]
        assert first.evidence is not None
        assert first.evidence.verified
        assert first.evidence.mirrored
        assert first.evidence.region == pytest.approx((0, 0, 0.75, 0.75), abs=0.05)
        assert first.evidence.query_region == pytest.approx((0, 0, 1, 1), abs=0.05)
        assert [one.evidence for one in others] == [CopyEvidence(verified=False)] * len(others)


def test_only_copies_are_verified_and_only_where_that_is_wanted(
    runtime: Runtime, library: dict[str, str], small_photos: dict[str, bytes]
) -> None:
    content = small_photos["coffee.png"]
    for query in ({"mode": "similar"}, {"mode": "near", "verify": False}):
        result = find(runtime, [content], **query)
        assert {one.evidence for one in result.hits} == {None}
        assert result.timing_ms.verify == 0
    hurried = set_anew(runtime, verify_time_limit_ms=0)
    evidence = [one.evidence for one in find(hurried, [content], mode="near").hits]
    assert evidence[0] is not None
    assert evidence[0].verified
    assert None in evidence[1:]


def test_a_candidate_whose_bytes_are_lost_is_not_verified(
    runtime: Runtime, library: dict[str, str], small_photos: dict[str, bytes]
) -> None:
    lost = library["coffee.png"]
    runtime.blobs.delete(image_key("default", lost))
    result = find(runtime, [small_photos["coffee.png"]], mode="near")
    assert ids_of(result)[0] == lost
    assert result.hits[0].evidence is None
