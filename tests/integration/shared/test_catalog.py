"""The catalogue, with several who change it at once."""

from __future__ import annotations

import contextlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from support.between import BusyRedis, after_read, before_transaction
from support.records import image, summary
from support.servers import wait_until

from twinlens.shared.errors import ImageNotFound, LibraryNotFound, ModelNotFound, Unavailable
from twinlens.shared.indexes import Server
from twinlens.shared.libraries import Library, NextEdition, new_collection, new_library
from twinlens.shared.messages import CatalogEntry, Cursor, now
from twinlens.shared.redis import catalog as catalog_module
from twinlens.shared.redis import keys
from twinlens.shared.redis.catalog import Catalog
from twinlens.shared.redis.jobs import Job, Jobs
from twinlens.shared.redis.timeline import page_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings

A, B = "a@1", "b@1"


@pytest.fixture
def milvus_uri() -> str:
    return "http://127.0.0.1:1"  # nobody asks it


@pytest.fixture
def catalog(redis: Redis) -> Catalog:
    catalog = Catalog(redis)
    redis.delete(keys.LIBRARIES)
    catalog.ensure_library(old_library("art", [A, B]))
    return catalog


def old_library(name: str, models: list[str]) -> Library:
    """Returns one of the time when libraries had no id: all lies under its name."""
    return Library(**new_library(name, models).model_dump(exclude={"id"}))


def weigh(catalog: Catalog, name: str, weight: float) -> Library:
    def change(library: Library) -> Library:
        library.weights[name] = weight
        return library

    return catalog.change_library("art", change)


def plan(catalog: Catalog) -> None:
    """Gives the library another edition to be built, with one collection of its own."""

    def change(library: Library) -> Library:
        collections = {A: library.collections[A], "c@1": new_collection("art", "c@1")}
        library.next = NextEdition(models=[A, "c@1"], collections=collections, job_id="j")
        return library

    catalog.change_library("art", change)


def entry(image_id: str, library: str = "art", **fields: Any) -> CatalogEntry:
    return CatalogEntry(image=image(image_id, library=library), added_by="j:0:0", **fields)


def add(redis: Redis, *entries: CatalogEntry) -> None:
    for one in entries:
        assert Catalog(redis).put(one.image.library, [one]) == []


# Libraries.


def test_a_library_is_made_once(catalog: Catalog) -> None:
    before = catalog.library("art")
    assert not catalog.ensure_library(new_library("art", ["other@1"]))
    assert catalog.ensure_library(new_library("cars", []))
    assert catalog.library("art") == before
    assert [library.name for library in catalog.libraries()] == ["art", "cars"]
    with pytest.raises(LibraryNotFound, match="nonesuch"):
        catalog.library("nonesuch")


def test_two_who_change_a_library_at_once_both_have_their_way(catalog: Catalog) -> None:
    n_tries = count(1)

    def change(library: Library) -> Library:
        if next(n_tries) == 1:
            weigh(catalog, "a", 0.1)
        library.weights["b"] = 0.2
        return library

    after = catalog.change_library("art", change)
    assert after.weights == {"a": 0.1, "b": 0.2}
    assert catalog.library("art") == after
    assert next(n_tries) == 3


def test_a_library_that_is_to_stay_as_it_is_stays(catalog: Catalog) -> None:
    before = catalog.library("art")

    def think_better_of_it(library: Library) -> None:
        library.weights["a"] = 9

    assert catalog.change_library("art", think_better_of_it) == before
    assert catalog.library("art") == before


def test_a_library_that_is_removed_while_it_is_changed_does_not_come_back(catalog: Catalog) -> None:
    def change(library: Library) -> Library:
        catalog.remove_library("art")
        return library

    with pytest.raises(LibraryNotFound):
        catalog.change_library("art", change)
    assert catalog.libraries() == []


def test_collections_that_a_change_leaves_are_to_be_dropped(catalog: Catalog) -> None:
    plan(catalog)
    assert catalog.unused_collections() == set()
    planned = catalog.library("art")
    assert planned.next is not None
    switched = catalog.change_library(
        "art", lambda library: library.switched(planned.next or library)
    )
    assert switched.models == [A, "c@1"]
    assert catalog.unused_collections() == {planned.collections[B]}
    catalog.forget_collection(planned.collections[B])
    assert catalog.unused_collections() == set()


def test_nothing_is_left_of_a_library_that_is_removed(catalog: Catalog, redis: Redis) -> None:
    catalog.ensure_library(old_library("cars", [A]))
    for name in ("art", "cars"):
        add(redis, entry("1" * 64, name))
        catalog.put_calibrations(name, {"c": "{}"})
        with redis.pipeline() as pipeline:
            catalog.note_cost(pipeline, name, 0.5)
            pipeline.execute()
    collections = catalog.library("art").all_collections
    catalog.remove_library("art")
    assert [library.name for library in catalog.libraries()] == ["cars"]
    assert catalog.unused_collections() == collections
    for name, n_images in (("art", 0), ("cars", 1)):
        assert catalog.count(name) == len(catalog.find(name, ["1" * 64])) == n_images
        assert len(catalog.calibrations(name)) == n_images
        assert catalog.cost_s(name) == (0.5 if n_images else None)
    with pytest.raises(LibraryNotFound):
        catalog.remove_library("art")


def test_an_edition_that_is_planned_while_its_library_is_removed_leaves_no_collection(
    catalog: Catalog, redis: Redis
) -> None:
    before_transaction(redis, lambda: plan(catalog))
    collections = catalog.library("art").all_collections
    catalog.remove_library("art")
    assert catalog.libraries() == []
    left = catalog.unused_collections()
    assert collections < left
    assert len(left) == len(collections) + 1


# What the workers tell.


def test_the_models_are_those_that_were_told_last(catalog: Catalog) -> None:
    catalog.publish_models([summary("a"), summary("a", "2"), summary("b")])
    assert catalog.model("b").ref == catalog.model(B).ref == B
    with pytest.raises(ModelNotFound, match="a@1, a@2"):
        catalog.model("a")
    catalog.publish_models([summary("a", "2")])
    assert list(catalog.models()) == ["a@2"]
    with pytest.raises(ModelNotFound, match="there are: a@2"):
        catalog.model("b")
    catalog.publish_models([])
    with pytest.raises(ModelNotFound, match="none yet"):
        catalog.model("a")


def test_the_server_is_the_one_that_was_told_last(catalog: Catalog) -> None:
    assert catalog.server() is None
    for title in ("Milvus 2.3", "Milvus 2.6"):
        server = Server(title=title, index_types=frozenset({"FLAT"}), float16_types=frozenset())
        catalog.publish_server(server)
        assert catalog.server() == server


def test_calibrations_of_collections_that_are_gone_are_not_kept(catalog: Catalog) -> None:
    catalog.put_calibrations("art", {"old": "{}", "both": "{}"})
    catalog.put_calibrations("art", {"both": "[]", "new": "{}"})
    assert catalog.calibrations("art") == {"both": "[]", "new": "{}"}
    assert catalog.searched("art").calibrations == {"both": "[]", "new": "{}"}


def n_transactions(redis: Redis) -> int:
    stats: Any = redis.info("commandstats")
    return int(stats.get("cmdstat_exec", {"calls": 0})["calls"])


@pytest.mark.parametrize(
    "change",
    [
        lambda catalog: catalog.publish_models([summary("a"), summary("b")]),
        lambda catalog: catalog.put_calibrations("art", {"a": "{}", "b": "{}"}),
        lambda catalog: catalog.remove_library("art"),
        lambda catalog: weigh(catalog, "a", 1),
    ],
    ids=["models", "calibrations", "library", "weights"],
)
def test_who_reads_meanwhile_sees_no_half_change(
    catalog: Catalog, redis: Redis, change: Callable[[Catalog], object]
) -> None:
    before = n_transactions(redis)
    change(catalog)
    assert n_transactions(redis) == before + 1


def test_a_removal_that_is_repeated_spares_what_a_chunk_found_missing(
    catalog: Catalog, redis: Redis
) -> None:
    """Of two chunks, only the one that looked before the removal must not bring it back."""
    image_id = "1" * 64
    create(redis, "j")
    catalog.put("art", [entry(image_id)])
    before = catalog.begin_chunk("j", 0)
    catalog.remove("art", image_id)
    after = catalog.begin_chunk("j", 0)
    catalog.remove("art", image_id)
    assert catalog.put("art", [entry(image_id)], before) == [image_id]
    assert catalog.put("art", [entry(image_id)], after) == []


# Up to when a search finds all.


def create(redis: Redis, job_id: str, kind: Any = "embed", library: str = "art") -> Job:
    job = Job(id=job_id, kind=kind, library=library, created_at=now(), ttl_s=60)
    Jobs(redis).create(job)
    return job


@pytest.mark.parametrize("kind", ["embed", "bulk"])
def test_a_search_does_not_promise_what_is_uploaded_while_it_reads(
    catalog: Catalog, redis: Redis, kind: str
) -> None:
    jobs: list[Job] = []
    after_read(redis, lambda: jobs.append(create(redis, "j", kind)))
    searched = catalog.searched("art")
    [job] = jobs
    assert searched.indexed_through <= job.created_at
    assert searched.library == catalog.library("art")


def test_a_search_promises_what_came_before_the_first_upload_that_is_open(
    catalog: Catalog, redis: Redis
) -> None:
    began = now()
    for kind in ("delete", "search", "duplicates", "reindex"):
        create(redis, kind, kind)  # they bring no pictures
    create(redis, "elsewhere", library="cars")
    assert catalog.searched("art").indexed_through > now() - timedelta(seconds=60)
    assert catalog.searched("art").indexed_through >= began
    first, second = create(redis, "z"), create(redis, "a", "bulk")
    jobs = Jobs(redis)
    for ended, promised in ((None, first), (first, second)):
        if ended is not None:
            jobs.finish(ended.id)
        assert catalog.searched("art").indexed_through == promised.created_at
    jobs.finish(second.id)
    assert catalog.searched("art").indexed_through > second.created_at
    with pytest.raises(LibraryNotFound):
        catalog.searched("nonesuch")


# Images.


def test_an_image_that_was_removed_meanwhile_does_not_come_back(
    catalog: Catalog, redis: Redis
) -> None:
    add(redis, entry("1" * 64), entry("2" * 64))
    read = catalog.find("art", ["1" * 64, "2" * 64])
    catalog.remove("art", "2" * 64)
    for one in read.values():
        one.collections = {"new"}
    assert catalog.put("art", read.values()) == ["2" * 64]
    assert set(catalog.find("art", ["1" * 64, "2" * 64])) == {"1" * 64}
    assert catalog.count("art") == 1
    assert catalog.get("art", "1" * 64).collections == {"new"}
    with pytest.raises(ImageNotFound, match="2" * 64):
        catalog.get_all("art", ["1" * 64, "2" * 64])


def test_an_image_that_somebody_else_has_written_meanwhile_is_left_as_it_is(
    catalog: Catalog,
) -> None:
    first, second = entry("1" * 64), entry("1" * 64)
    assert catalog.put("art", [first]) == []
    assert catalog.put("art", [second, entry("2" * 64)]) == ["1" * 64]
    assert catalog.count("art") == 2
    one, other = (catalog.get("art", "1" * 64) for _ in range(2))
    one.image.name, other.image.name = "one.jpg", "other.jpg"
    assert catalog.put("art", [other]) == []
    assert catalog.put("art", [one]) == ["1" * 64]
    assert catalog.get("art", "1" * 64).image.name == "other.jpg"


def test_nobody_adds_an_image_that_is_closed_or_was_since_a_chunk_looked(
    catalog: Catalog, redis: Redis
) -> None:
    create(redis, "j", "bulk")
    before = catalog.begin_chunk("j", 0)
    until = catalog.close_images("art", ["1" * 64])
    meanwhile = catalog.begin_chunk("j", 0)
    with pytest.raises(Unavailable):
        catalog.close_images("art", ["2" * 64, "1" * 64])
    with pytest.raises(Unavailable):
        catalog.put("art", [entry("2" * 64), entry("1" * 64)], meanwhile)
    assert catalog.put("art", [entry("2" * 64)], meanwhile) == [], "another is open"
    catalog.open_images("art", ["1" * 64], until)
    for run in (before, meanwhile):
        with pytest.raises(Unavailable):
            catalog.put("art", [entry("1" * 64)], run)
    afterwards = catalog.begin_chunk("j", 0)
    assert catalog.put("art", [entry("1" * 64)], afterwards) == []
    catalog.close_images("art", ["1" * 64])
    [there] = catalog.find("art", ["1" * 64]).values()
    assert catalog.put("art", [there], afterwards) == [], "it is changed, not added"


def test_whoever_closed_an_image_and_died_holds_it_only_for_a_while(
    catalog: Catalog, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_module, "CLOSED_S", 1)
    ids = ["1" * 64, "2" * 64]
    late = catalog.close_images("art", ids)
    opens: list[str] = []

    def close() -> bool:
        with contextlib.suppress(Unavailable):
            opens.append(catalog.close_images("art", ids[:1]))
        return bool(opens)

    monkeypatch.setattr(catalog_module, "CLOSED_S", 60)
    wait_until(close, 30)
    catalog.open_images("art", ids, late)
    with pytest.raises(Unavailable):
        catalog.close_images("art", ids[:1])
    catalog.open_images("art", ids, opens[0])
    assert catalog.close_images("art", ids)


def test_an_image_that_is_written_again_keeps_its_place(catalog: Catalog, redis: Redis) -> None:
    add(redis, *(entry(digit * 64) for digit in "123"))
    add(redis, catalog.get("art", "1" * 64))
    page, _ = catalog.page("art", 9, None)
    assert [one.image.id[0] for one in page] == ["3", "2", "1"]


def test_some_images_are_taken_by_chance_and_none_twice(catalog: Catalog, redis: Redis) -> None:
    ids = [f"{n:064x}" for n in range(50)]
    add(redis, *map(entry, ids))
    some = [catalog.random_ids("art", 20) for _ in range(5)]
    assert all(len(set(sample)) == 20 and set(sample) <= set(ids) for sample in some)
    assert len(set(map(frozenset, some))) > 1
    assert sorted(catalog.random_ids("art", 60)) == ids
    assert catalog.random_ids("nonesuch", 5) == []


def test_some_images_are_taken_from_everywhere_and_stay_the_same(
    catalog: Catalog, redis: Redis
) -> None:
    ids = [f"{n:064x}" for n in range(100)]
    for n in range(0, 100, 10):
        add(redis, *map(entry, ids[n : n + 10]))
        there = n + 10
        some = catalog.spread_ids("art", 16)
        step = next(size for size in (1, 2, 4, 8) if there <= 16 * size)
        assert some == ids[:there:step]
        assert catalog.spread_ids("art", 16) == some
    assert catalog.spread_ids("nonesuch", 5) == []


def test_all_images_are_gone_through(catalog: Catalog, redis: Redis) -> None:
    ids = [f"{n:064x}" for n in range(3000)]
    add(redis, *map(entry, ids))
    assert set(catalog.all_ids("art")) == set(ids)


# Pages, newest first.


@pytest.fixture
def busy(settings: Settings, redis: Redis) -> BusyRedis:
    return BusyRedis.from_url(settings.redis_url, decode_responses=True)


def pages(redis: Redis, limit: int, left: Callable[[Cursor], object] = lambda _: None) -> list[str]:
    seen: list[str] = []
    cursor: Cursor | None = None
    while True:
        members, cursor = page_of(redis, "list", limit, cursor)
        assert len(members) <= limit
        seen += members
        if cursor is None:
            return seen
        left(cursor)


@pytest.mark.parametrize("n_members", [0, 1, 3, 4, 6, 7])
def test_pages_show_all_newest_first(redis: Redis, n_members: int) -> None:
    for n in range(n_members):
        redis.zadd("list", {f"m{n}": 1_700_000_000.123457 + n})
    assert pages(redis, 3) == [f"m{n}" for n in reversed(range(n_members))]
    assert pages(redis, n_members or 1) == pages(redis, 1000)


def test_pages_end_with_the_last_one(redis: Redis) -> None:
    redis.zadd("list", {"a": 1, "b": 2})
    assert page_of(redis, "list", 2, None) == (["b", "a"], None)
    assert page_of(redis, "list", 1, None) == (["b"], Cursor(score=2, member="b"))
    assert page_of(redis, "list", 1, Cursor(score=2, member="b")) == (["a"], None)


def test_what_arrives_and_goes_meanwhile_hides_nothing_and_shows_nothing_twice(
    redis: Redis, busy: BusyRedis
) -> None:
    stay, go = [f"stays{n}" for n in range(12)], [f"goes{n}" for n in range(12)]
    for n in range(12):
        redis.zadd("list", {stay[n]: n, go[n]: n + 0.5})
    arrivals, leavers = count(100), reversed(go)

    def come_and_go() -> None:
        n = next(arrivals)
        redis.zadd("list", {f"new{n}": n})
        if (leaver := next(leavers, None)) is not None:
            redis.zrem("list", leaver)

    busy.meanwhile = come_and_go
    shown = Counter(pages(busy, 2))
    assert {shown[member] for member in stay} == {1}
    assert max(shown.values()) == 1


def test_a_page_goes_on_where_it_was_left_though_that_member_is_gone(redis: Redis) -> None:
    moments = [datetime(2026, 1, 1, microsecond=n + 1, tzinfo=UTC).timestamp() for n in range(9)]
    redis.zadd("list", {f"m{n}": moment for n, moment in enumerate(moments)})
    shown = pages(redis, 2, left=lambda cursor: redis.zrem("list", cursor.member))
    assert shown == [f"m{n}" for n in reversed(range(9))]


def test_members_of_one_moment_are_not_left_out_where_one_of_them_goes(redis: Redis) -> None:
    redis.zadd("list", {"a": 1, "b": 1, "c": 1})
    assert pages(redis, 1, left=lambda cursor: redis.zrem("list", cursor.member)) == ["c", "b", "a"]
