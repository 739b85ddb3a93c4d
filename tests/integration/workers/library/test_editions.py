"""When another edition of a library is switched on, and when it is not; and what is kept of it."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.embedding import library_id, outcomes, set_anew
from support.known_library import COLOURS, PHASH, TINT, at_angles, make_shelf, of_bits, write_known
from support.requests import post
from support.tiny_pair import plain_picture

from twinlens.models.calibration import N_SAMPLE, Calibration, calibrate, prior_of
from twinlens.models.registry import Registry
from twinlens.shared.blobs import image_id_of, image_key
from twinlens.shared.queries import SearchQuery
from twinlens.shared.queue import EMBED_CHUNK, make_celery
from twinlens.shared.redis.catalog import ChunkIsOver
from twinlens.shared.settings import Settings
from twinlens.workers.library import calibrations as calibrations_module
from twinlens.workers.library import editions
from twinlens.workers.library.calibrations import read_calibration
from twinlens.workers.milvus.vectors import Vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from support.known_library import Known
    from support.requests import Client
    from support.stand_in import StandIn

    from twinlens.shared.libraries import Library
    from twinlens.shared.redis.jobs import Job
    from twinlens.workers.milvus.collection import Collection
    from twinlens.workers.process.runtime import Runtime

NAMES = ("red", "orange", "green", "blue", "pink")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shelf(tmp_path_factory.mktemp("shelf") / "models")


@pytest.fixture
def runtime(runtime: Runtime, shelf: Path) -> Runtime:
    runtime.settings.models_dir.unlink()
    runtime.settings.models_dir.symlink_to(shelf)
    runtime.publish()
    return runtime


@pytest.fixture
def art(client: Client, runtime: Runtime) -> dict[str, str]:
    """A library of one model with pictures of one colour each: ids by colour."""
    assert client.put("/v1/libraries/art", json={"models": [COLOURS]}).status_code == 201
    job_id = post(client, [(name, plain_picture(name)) for name in NAMES], "art")
    for chunk in range(runtime.jobs.get(job_id).n_chunks):
        assert set(outcomes(runtime, job_id, chunk)) == {"succeeded"}
    return {name: image_id_of(plain_picture(name)) for name in NAMES}


def ask(client: Client, models: list[str], **options: Any) -> str:
    """Asks for another edition. Returns the job that builds it."""
    answer = client.put("/v1/libraries/art", json={"models": models, **options})
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json["id"]
    return job_id


def plan(runtime: Runtime, job_id: str) -> int:
    """Plans a job as its task does. Returns how many chunks it has."""
    runtime.editions.plan(make_celery(runtime.settings), job_id)
    return runtime.jobs.get(job_id).n_chunks


def build(runtime: Runtime, job_id: str) -> Job:
    """Does all of a job's work."""
    for chunk in range(plan(runtime, job_id)):
        outcomes(runtime, job_id, chunk)
    return runtime.jobs.get(job_id)


def library_of(runtime: Runtime) -> Library:
    return runtime.catalog.library("art")


def next_collection(runtime: Runtime, model: str) -> Collection:
    edition = library_of(runtime).next
    assert edition is not None
    [collection] = [c for m, c in runtime.targets.of(edition) if m.card.name == model]
    return collection


def find(runtime: Runtime, image_id: str) -> dict[str, Any]:
    query = SearchQuery(library="art", image_id=image_id, rerank="none")
    return runtime.searches.search("q", query, time.time()).by_model


# The switch ------------------------------------------------------------------------------------


def test_an_edition_is_measured_before_it_is_switched_on(
    client: Client, runtime: Runtime, art: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = ask(client, [COLOURS, PHASH])
    wanted = set(library_of(runtime).all_collections)
    change_library = runtime.catalog.change_library
    before: list[set[str]] = []

    def recorded(*args: Any) -> Library:
        before.append(set(runtime.catalog.calibrations(library_id(runtime, "art"))))
        return change_library(*args)

    monkeypatch.setattr(runtime.catalog, "change_library", recorded)
    assert build(runtime, job_id).status == "succeeded"

    assert before == [wanted]
    assert len(wanted) == 2
    known = runtime.catalog.calibrations(library_id(runtime, "art"))
    for collection in library_of(runtime).collections.values():
        measured = read_calibration(known[collection])
        assert measured is not None
        assert (measured.n_pictures, measured.n_pairs) == (5, 10)


def scaled(rows: Iterable[Any]) -> list[Any]:
    """Of other lengths than 1: by the product, the longest is then nearest to all."""
    return [row * (1 + place) for place, row in enumerate(rows)]


def rotated(rows: Iterable[Any]) -> list[Any]:
    """Each under the next one's id."""
    first, *others = rows
    return [*others, first]


@pytest.mark.parametrize(("spoil", "metric"), [(scaled, "IP"), (rotated, "COSINE")])
def test_an_edition_of_wrong_vectors_is_not_switched_on_though_it_has_all(
    client: Client,
    runtime: Runtime,
    art: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Iterable[Any]], list[Any]],
    metric: str,
) -> None:
    runtime = set_anew(runtime, chunk_items=10)
    for image_id in art.values():
        find(runtime, image_id)  # so the process knows what the right ones are
    before = library_of(runtime)
    job_id = ask(client, [COLOURS], metric=metric)
    upsert = runtime.vectors.upsert

    def spoilt(to: Collection, ids: Any, rows: Any, metadata: Any) -> None:
        upsert(to, ids, spoil(rows), metadata)

    monkeypatch.setattr(runtime.vectors, "upsert", spoilt)
    without_pauses(monkeypatch, lambda: None)
    wrong = next_collection(runtime, COLOURS)
    job = build(runtime, job_id)

    assert runtime.vectors.count(wrong) == len(art)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error.type.endswith(":reindex-failed")
    assert "does not find what it has embedded" in str(job.error.detail)
    assert library_of(runtime) == before


def test_a_picture_that_is_posted_again_just_as_it_is_looked_for_is_no_fault(
    client: Client, runtime: Runtime, art: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = ask(client, [COLOURS], metric="IP")
    collection, nearest = next_collection(runtime, COLOURS), runtime.vectors.nearest
    looked: list[str] = []

    def look_while_it_is_away(to: Collection, rows: Any, limit: int) -> list[dict[str, float]]:
        [[image_id]] = nearest(to, rows, limit)
        looked.append(image_id)
        if len(looked) > 1:
            return nearest(to, rows, limit)
        runtime.vectors.delete(to, [image_id])
        near = nearest(to, rows, limit)
        runtime.vectors.upsert(to, [image_id], rows, [{}])
        return near

    monkeypatch.setattr(runtime.vectors, "nearest", look_while_it_is_away)
    slept = without_pauses(monkeypatch, lambda: None)
    assert build(runtime, job_id).status == "succeeded"
    assert len(slept) == 1
    assert library_of(runtime).collections[f"{COLOURS}@1"] == collection.name


@pytest.mark.parametrize("vector", ["FLOAT32", "FLOAT16"])
@pytest.mark.parametrize("metric", ["L2", "IP", "COSINE"])
def test_an_edition_of_right_vectors_is_switched_on_however_they_are_rounded(
    client: Client, runtime: Runtime, art: dict[str, str], metric: str, vector: str
) -> None:
    options: dict[str, Any] = {"metric": metric, "index": {"type": "FLAT", "vector": vector}}
    for image_id in art.values():
        find(runtime, image_id)
    assert build(runtime, ask(client, [COLOURS], **options)).status == "succeeded"
    assert library_of(runtime).metric == metric
    assert library_of(runtime).index.vector == vector


def without_pauses(monkeypatch: pytest.MonkeyPatch, come: Callable[[], None]) -> list[float]:
    """Has something happen in place of each pause between two counts. Returns the pauses."""
    sleep, slept = time.sleep, []

    def pause(pause_s: float) -> None:
        # Clients of servers sleep too.
        if pause_s != editions.LOOK_PAUSE_S:
            sleep(pause_s)
            return
        slept.append(pause_s)
        come()

    monkeypatch.setattr(time, "sleep", pause)
    return slept


def test_pictures_that_come_while_an_edition_is_counted_are_waited_for(
    client: Client, runtime: Runtime, art: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = ask(client, [PHASH])
    hashes = next_collection(runtime, PHASH)
    upsert = runtime.vectors.upsert
    late: list[Any] = []

    def hold_back(to: Collection, *columns: Any) -> None:
        held = [list(column) for column in columns]
        late.append([column[:1] for column in held])
        upsert(to, *(column[1:] for column in held))

    def come() -> None:
        if len(slept) == 3:
            for columns in late:
                upsert(hashes, *columns)

    monkeypatch.setattr(runtime.vectors, "upsert", hold_back)
    slept = without_pauses(monkeypatch, come)
    assert build(runtime, job_id).status == "succeeded"
    assert len(slept) == 3
    assert [ref.partition("@")[0] for ref in library_of(runtime).models] == [PHASH]


def test_an_edition_that_lacks_pictures_to_the_end_is_not_switched_on(
    client: Client, runtime: Runtime, art: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = library_of(runtime)
    job_id = ask(client, [PHASH])
    upsert = runtime.vectors.upsert
    slept = without_pauses(monkeypatch, lambda: None)
    monkeypatch.setattr(
        runtime.vectors, "upsert", lambda to, *rows: upsert(to, *(list(row)[1:] for row in rows))
    )
    job = build(runtime, job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert "embeddings of only 3 of 5 pictures" in str(job.error.detail), "one a chunk is missing"
    assert len(slept) == editions.N_LOOKS
    assert library_of(runtime) == before


def test_a_picture_that_failed_withholds_the_switch_though_all_others_are_there(
    client: Client, runtime: Runtime, art: dict[str, str]
) -> None:
    before = library_of(runtime)
    job_id = ask(client, [COLOURS, TINT])
    n_chunks = plan(runtime, job_id)
    runtime.blobs.delete(image_key(library_id(runtime, "art"), art["green"]))
    all_outcomes = [one for chunk in range(n_chunks) for one in outcomes(runtime, job_id, chunk)]
    assert sorted(all_outcomes) == ["failed", *["succeeded"] * 4]
    job = runtime.jobs.get(job_id)
    assert job.error is not None
    assert job.status == "failed"
    assert "1 pictures could not be embedded" in str(job.error.detail)
    assert library_of(runtime) == before


def test_nothing_is_switched_on_before_the_last_chunk(
    client: Client, runtime: Runtime, art: dict[str, str]
) -> None:
    job_id = ask(client, [TINT])
    n_chunks = plan(runtime, job_id)
    assert n_chunks == 2
    outcomes(runtime, job_id, 0)
    for step in (partial(runtime.editions.switch_if_built, job_id), runtime.editions.tend):
        step()
        assert library_of(runtime).next is not None
        assert runtime.jobs.get(job_id).status == "running"
    outcomes(runtime, job_id, 1)
    assert library_of(runtime).models == [f"{TINT}@1"]


def test_a_plan_that_was_given_up_switches_no_other_on(
    client: Client, runtime: Runtime, art: dict[str, str]
) -> None:
    """A worker may still be at the one, when another has been asked for."""
    first = ask(client, [TINT])
    assert plan(runtime, first) == 2
    outcomes(runtime, first, 0)
    runtime.catalog.give_up_plan("art", first)
    second = ask(client, [PHASH])
    outcomes(runtime, first, 1)
    assert runtime.jobs.get(first).error is None, "the other's pictures are not its own to count"
    library = library_of(runtime)
    assert library.models == [f"{COLOURS}@1"]
    assert library.next is not None
    assert library.next.job_id == second
    runtime.catalog.give_up_plan("art", first)
    assert library_of(runtime) == library
    runtime.editions.tend()
    assert library_of(runtime) == library


def test_a_plan_that_was_cancelled_is_not_switched_on_by_its_last_chunk(
    client: Client, runtime: Runtime, art: dict[str, str]
) -> None:
    job_id = ask(client, [TINT])
    assert plan(runtime, job_id) == 2
    outcomes(runtime, job_id, 0)
    runtime.jobs.cancel(job_id)
    with pytest.raises(ChunkIsOver):
        outcomes(runtime, job_id, 1)
    assert runtime.jobs.get(job_id).status == "cancelled"
    assert library_of(runtime).models == [f"{COLOURS}@1"]


def test_a_plan_queues_its_chunks_and_made_again_makes_no_more(
    client: Client, runtime: Runtime, art: dict[str, str], worker: StandIn
) -> None:
    job_id = ask(client, [TINT])
    assert plan(runtime, job_id) == 2
    queued = [task["kwargs"] for task in worker.queued() if task["name"] == EMBED_CHUNK]
    own = [one["chunk"] for one in queued if one["job_id"] == job_id]
    assert sorted(own) == [0, 1]
    assert runtime.jobs.get(job_id).total == 5
    assert plan(runtime, job_id) == 2
    assert runtime.jobs.get(job_id).total == 5
    assert build(runtime, job_id).status == "succeeded"
    assert plan(runtime, job_id) == 2


def test_a_library_whose_pictures_have_all_gone_is_switched_at_once(
    client: Client, runtime: Runtime, art: dict[str, str]
) -> None:
    job_id = ask(client, [TINT])
    for image_id in art.values():
        runtime.catalog.remove(library_id(runtime, "art"), image_id)
    assert plan(runtime, job_id) == 0
    assert runtime.jobs.get(job_id).status == "succeeded"
    assert library_of(runtime).models == [f"{TINT}@1"]


# What is kept, and for how long ----------------------------------------------------------------


def test_the_edition_before_is_kept_until_its_time_is_over_and_then_dropped(
    client: Client, runtime: Runtime, art: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [before] = library_of(runtime).collections.values()
    build(runtime, ask(client, [TINT]))
    [after] = library_of(runtime).collections.values()
    switched_at = time.time()
    kept_s = runtime.settings.rollback_s
    assert kept_s == 3600

    monkeypatch.setattr(time, "time", lambda: switched_at + kept_s - 60)
    runtime.editions.tend()
    previous = library_of(runtime).previous
    assert previous is not None
    assert abs(previous.until.timestamp() - switched_at - kept_s) < 60
    assert runtime.vectors.has(before)

    monkeypatch.setattr(time, "time", lambda: switched_at + kept_s + 1)
    runtime.editions.tend()
    assert library_of(runtime).previous is None
    assert not runtime.vectors.has(before)
    assert runtime.vectors.has(after)
    assert runtime.catalog.unused_collections() == set()
    assert len(find(runtime, art["red"])[TINT]) == 4


def test_a_cancelled_plan_is_given_up_and_what_it_had_built_is_dropped(
    client: Client, runtime: Runtime, art: dict[str, str]
) -> None:
    job_id = ask(client, [TINT])
    plan(runtime, job_id)
    outcomes(runtime, job_id, 0)
    built = next_collection(runtime, TINT).name
    assert runtime.vectors.has(built)
    runtime.jobs.cancel(job_id)
    runtime.editions.tend()
    assert library_of(runtime).next is None
    assert not runtime.vectors.has(built)
    assert runtime.catalog.unused_collections() == set()
    assert len(find(runtime, art["red"])[COLOURS]) == 4


# Calibrations ----------------------------------------------------------------------------------

N_KNOWN = 40


@pytest.fixture(scope="module")
def known(lite_uri: str, shelf: Path) -> Known:
    cards = {card.name: card for card in Registry(shelf).cards()}
    rows: dict[str, Any] = {
        COLOURS: at_angles(np.linspace(0, 170, N_KNOWN).tolist()),
        PHASH: of_bits(range(40)),
    }
    return write_known(Vectors(Settings(milvus_uri=lite_uri)), cards, rows)


def measured(runtime: Runtime, known: Known) -> dict[str, Calibration]:
    """Returns what is known of the library, by model."""
    texts = runtime.catalog.calibrations(known.library.id)
    by_ref = {name: ref.partition("@")[0] for ref, name in known.library.collections.items()}
    return {
        by_ref[name]: calibration
        for name, text in texts.items()
        if (calibration := read_calibration(text)) is not None
    }


def put(runtime: Runtime, known: Known, n_pictures: int) -> None:
    """Makes it a library of so many pictures, that is tended to."""
    for image_id in known.ids:
        runtime.catalog.remove(known.library.id, image_id)
    known.put(runtime, without=range(n_pictures, N_KNOWN))
    runtime.calibrations.keep()


def test_a_library_is_measured_from_its_own_embeddings(runtime: Runtime, known: Known) -> None:
    put(runtime, known, N_KNOWN)
    calibrations = measured(runtime, known)
    assert calibrations.keys() == {COLOURS, PHASH}
    for name, one in calibrations.items():
        prior = prior_of(Registry(runtime.settings.models_dir).card(name))
        expected = calibrate(known.rows[name], prior, N_KNOWN)
        assert one.cosines == pytest.approx(expected.cosines, abs=1e-5)
        assert (one.n_pictures, one.n_pairs) == (40, 780)
        assert one.exponent == pytest.approx(expected.exponent, rel=1e-4)


@pytest.mark.parametrize(
    ("n_pictures", "is_again"), [(25, False), (26, True), (16, False), (15, True), (20, False)]
)
def test_a_library_is_measured_again_when_it_has_grown_or_shrunk_by_a_quarter(
    runtime: Runtime, known: Known, n_pictures: int, is_again: bool
) -> None:
    put(runtime, known, 20)
    assert {one.n_pictures for one in measured(runtime, known).values()} == {20}
    put(runtime, known, n_pictures)
    expected = n_pictures if is_again else 20
    assert {one.n_pictures for one in measured(runtime, known).values()} == {expected}


def test_a_large_library_is_measured_by_a_sample(
    runtime: Runtime, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert N_SAMPLE == 512
    monkeypatch.setattr(calibrations_module, "N_SAMPLE", 10)
    put(runtime, known, N_KNOWN)
    for one in measured(runtime, known).values():
        assert (one.n_pictures, one.n_pairs) == (40, 45)


def test_a_model_that_was_not_measured_has_the_library_measured_again(
    runtime: Runtime, known: Known
) -> None:
    put(runtime, known, 20)
    before = measured(runtime, known)
    stored = runtime.catalog.calibrations(known.library.id)
    [first, *_] = stored
    runtime.catalog.put_calibrations(known.library.id, {first: stored[first]})
    runtime.calibrations.keep()
    assert measured(runtime, known).keys() == before.keys()


@pytest.mark.parametrize(
    "before",
    [
        '{"cosines":[0.1,0.2,0.3,0.4,0.5],"exponent":8,"n_pictures":20,"n_pairs":190}',
        '{"rule":0,"calibration":{"cosines":[0.1,0.2,0.3,0.4,0.5],"exponent":8,"n_pictures":20}}',
        "junk",
    ],
)
def test_what_was_measured_by_another_rule_is_measured_again(
    runtime: Runtime, known: Known, before: str
) -> None:
    put(runtime, known, 20)
    stored = runtime.catalog.calibrations(known.library.id)
    runtime.catalog.put_calibrations(known.library.id, dict.fromkeys(stored, before))
    # Until then searches go on with what the cards say.
    query = SearchQuery(library="known", image_id=known.ids[0])
    assert runtime.searches.search("t", query, time.time()).hits
    runtime.calibrations.keep()
    assert runtime.catalog.calibrations(known.library.id) == stored


def test_an_empty_library_is_not_measured(runtime: Runtime, known: Known) -> None:
    put(runtime, known, 0)
    assert measured(runtime, known) == {}


def test_what_was_known_of_collections_that_are_gone_goes(
    client: Client, runtime: Runtime, art: dict[str, str]
) -> None:
    runtime.calibrations.keep()
    assert (
        set(runtime.catalog.calibrations(library_id(runtime, "art")))
        == library_of(runtime).all_collections
    )
    runtime = set_anew(runtime, rollback_s=0)
    build(runtime, ask(client, [TINT]))
    runtime.editions.tend()
    more = [(name, plain_picture(name)) for name in ("cyan", "black")]
    outcomes(runtime, post(client, more, "art"))
    runtime.calibrations.keep()
    assert (
        set(runtime.catalog.calibrations(library_id(runtime, "art")))
        == library_of(runtime).all_collections
    )
    assert len(library_of(runtime).all_collections) == 1
