"""Images in order, and those alone that a filter is true of."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest
from celery.signals import after_task_publish
from support.plain_uploads import IDS
from support.records import image
from support.requests import assert_problem

from twinlens.shared.redis import catalog
from twinlens.shared.redis.catalog import MAX_READ, READ_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.inside_worker import WorkerProcess
    from support.requests import Client
    from support.stand_in import StandIn


def add(worker: StandIn, n_images: int) -> list[str]:
    """Adds images, of which each tenth is red. Returns their ids, the oldest first."""
    ids = [f"{n:064x}" for n in range(n_images)]
    for n, image_id in enumerate(ids):
        one = image(image_id, name=f"{n}.jpg")
        one.metadata = {"colour": "blue" if n % 10 else "red", "n": n}
        worker.add(one)
    return ids


def pages(client: Client, **query: Any) -> list[list[str]]:
    by_page = []
    while True:
        answer = client.get("/v1/images", query_string=query)
        assert answer.status_code == 200, answer.text
        by_page.append([one["id"] for one in answer.json["items"]])
        if answer.json["next_cursor"] is None:
            return by_page
        query["cursor"] = answer.json["next_cursor"]


@pytest.fixture
def in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "READ_ENTRIES", 4)
    monkeypatch.setattr(catalog, "MAX_READ", 20)


@pytest.mark.usefixtures("in_small_pieces")
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
@pytest.mark.parametrize("wanted", [None, 'colour == "red"', "n >= 7 and width == 2", "n > 99"])
@pytest.mark.parametrize("sort", ["-added_at", "added_at"])
def test_pages_have_all_that_are_wanted_in_order(
    client: Client, worker: StandIn, limit: int, wanted: str | None, sort: str
) -> None:
    ids = add(worker, 50)
    right = {None: ids, 'colour == "red"': ids[::10], "n > 99": []}.get(wanted, ids[7:])
    query = {"limit": limit, "sort": sort} | ({} if wanted is None else {"filter": wanted})
    seen = pages(client, **query)
    assert max(map(len, seen)) <= limit
    assert list(chain(*seen)) == (right if sort == "added_at" else right[::-1])


def test_the_newest_come_first_unless_told(client: Client, worker: StandIn) -> None:
    ids = add(worker, 3)
    assert pages(client) == [ids[::-1]] == pages(client, sort="-added_at")
    assert pages(client, sort="added_at", limit=2) == [ids[:2], ids[2:]]


@pytest.mark.usefixtures("in_small_pieces")
def test_a_page_looks_at_so_many_images_however_few_are_wanted(
    client: Client, worker: StandIn
) -> None:
    ids = add(worker, 50)
    assert pages(client, filter="n == 5", limit=9) == [[], [], [ids[5]]]
    assert (READ_ENTRIES, MAX_READ) == (1000, 5000)


@pytest.mark.usefixtures("in_small_pieces")
@pytest.mark.parametrize("sort", ["-added_at", "added_at"])
def test_a_page_goes_on_though_its_last_image_is_gone(
    client: Client, worker: StandIn, sort: str
) -> None:
    ids = add(worker, 12)
    seen: list[str] = []
    query: dict[str, Any] = {"filter": "n >= 0", "limit": 3, "sort": sort}
    while True:
        page = client.get("/v1/images", query_string=query).json
        seen += [one["id"] for one in page["items"]]
        worker.catalog.remove("default", seen[-1])
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert seen == (ids if sort == "added_at" else ids[::-1])


@pytest.mark.parametrize("path", ["images", "images/count"])
def test_a_filter_that_cannot_be_read_is_refused(client: Client, path: str) -> None:
    answer = client.get(f"/v1/{path}", query_string={"filter": "year >"})
    problem = assert_problem(answer, 422, "bad-filter")
    assert [error["location"] for error in problem["errors"]] == ["query:filter"]
    assert "At the end" in problem["detail"]


def test_another_order_is_refused(client: Client) -> None:
    assert_problem(client.get("/v1/images?sort=name"), 422, "validation-failed")


# Counts.


@pytest.fixture
def calls(process: WorkerProcess, worker: StandIn) -> Iterator[None]:
    """Does each call as soon as it is queued: then its caller waits for the answer."""

    def run(sender: str, **_: Any) -> None:
        if "count" in sender:
            process.run_next("search")

    worker.announce("search")
    after_task_publish.connect(run)
    yield
    after_task_publish.disconnect(run)


def count(client: Client, wanted: str | None = None, library: str = "default") -> Any:
    query = {"library": library} | ({} if wanted is None else {"filter": wanted})
    return client.get("/v1/images/count", query_string=query)


@pytest.mark.usefixtures("calls", "filled")
def test_images_are_counted(client: Client, process: WorkerProcess) -> None:
    assert count(client).json == {"count": 3}
    assert count(client, 'name == "red.png"').json == {"count": 1}
    assert count(client, 'name != "red.png"').json == {"count": 2}
    assert count(client, "exists year").json == {"count": 0}
    client.delete(f"/v1/images/{IDS[0]}")
    process.run_all("single")
    assert (count(client).json, count(client, "width > 0").json) == ({"count": 2}, {"count": 2})


def test_an_empty_library_is_counted_without_a_worker(client: Client) -> None:
    assert count(client, "width > 0").json == {"count": 0}
    assert_problem(count(client, library="nonesuch"), 404, "library-not-found")


def test_without_a_worker_there_is_no_count(client: Client, worker: StandIn) -> None:
    add(worker, 1)
    assert_problem(count(client, "width > 0"), 503, "unavailable")
