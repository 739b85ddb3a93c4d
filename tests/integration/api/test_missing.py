"""Which pictures a client need not upload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.records import image
from support.requests import assert_problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.requests import Client
    from support.stand_in import StandIn

A, B, C = "a" * 64, "b" * 64, "c" * 64
URL = "/v1/images/missing"


def ask(client: Client, ids: Sequence[Any], query: str = "") -> Any:
    return client.post(URL + query, json={"ids": ids})


def test_what_is_not_there_is_missing_in_the_order_asked(client: Client, worker: StandIn) -> None:
    worker.serve("lite0")
    worker.add(image(B))
    answer = ask(client, [C, B, A])
    assert answer.status_code == 200
    assert answer.json == {"missing": [C, A], "changed": []}
    assert ask(client, []).json == {"missing": [], "changed": []}


def test_an_image_without_one_of_the_models_is_missing(client: Client, worker: StandIn) -> None:
    worker.serve("lite0", "phash")
    whole = image(B).model_copy(update={"models": ["more@1", "phash@1", "lite0@1"]})
    worker.add(image(A))  # with lite0@1 alone
    worker.add(whole)
    assert ask(client, [A, B]).json == {"missing": [A], "changed": []}


def test_an_image_that_is_there_but_described_otherwise_is_changed(
    client: Client, worker: StandIn
) -> None:
    worker.serve("lite0")
    for image_id in (A, B):
        worker.add(image(image_id).model_copy(update={"name": "a.jpg", "metadata": {"year": 1}}))
    described: dict[str, Any] = {A: {}, B: {}, C: {"name": "new.jpg"}}
    for said, changed in (
        ({}, []),
        ({"name": "a.jpg", "metadata": {"year": 1}}, []),
        ({"name": "b.jpg"}, [B]),
        ({"metadata": {}}, [B]),
        ({"metadata": {"year": True}}, [B]),
    ):
        body = {"ids": [A, B, C], "described": described | {B: said}}
        assert client.post(URL, json=body).json == {"missing": [C], "changed": changed}


def test_each_library_is_asked_for_itself(client: Client, worker: StandIn) -> None:
    worker.serve("lite0")
    worker.serve("lite0", library="art")
    worker.add(image(A, library="art"))
    assert ask(client, [A], "?library=art").json == {"missing": [], "changed": []}
    assert ask(client, [A]).json == {"missing": [A], "changed": []}
    assert_problem(ask(client, [A], "?library=none"), 404, "library-not-found")


def test_a_thousand_can_be_asked_at_once(client: Client, worker: StandIn) -> None:
    ids = [f"{n:064x}" for n in range(1001)]
    assert ask(client, ids[:1000]).json == {"missing": ids[:1000], "changed": []}
    assert_problem(ask(client, ids), 422, "validation-failed")


@pytest.mark.parametrize("bad", ["", "a" * 63, "A" * 64, f"{A}\n", 7, None])
def test_what_is_no_id_is_refused(client: Client, worker: StandIn, bad: Any) -> None:
    problem = assert_problem(ask(client, [A, bad]), 422, "validation-failed")
    assert [field["location"] for field in problem["errors"]] == ["/ids/1"]


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"json": {}}, 422, "validation-failed"),
        ({"json": {"ids": [], "more": 1}}, 422, "validation-failed"),
        ({"json": {"ids": []}, "query_string": "k=1"}, 422, "validation-failed"),
        ({"data": b"{", "content_type": "application/json"}, 400, "bad-request"),
        ({"data": b"{}", "content_type": "text/plain"}, 415, "unsupported-media"),
        ({"data": b" " * 9_000_000, "content_type": "application/json"}, 413, "payload-too-large"),
    ],
)
def test_other_requests_are_refused(
    client: Client, options: dict[str, Any], status: int, code: str
) -> None:
    assert_problem(client.post(URL, **options), status, code)
