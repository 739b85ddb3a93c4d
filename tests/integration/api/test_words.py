"""Queries with words that are refused before anything is queued."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.records import image, make_library, summary
from support.requests import assert_problem

from twinlens.shared.libraries import new_library

if TYPE_CHECKING:
    from support.requests import Client
    from support.stand_in import StandIn

ID = "a" * 64
DEFAULT: dict[str, Any] = {"text": "red", "library": "default"}


@pytest.mark.parametrize(
    ("query", "location"),
    [
        ({"negative_text": "blue"}, "/negative_text"),
        ({"text": ""}, "/text"),
        ({"text": " \n"}, "/text"),
        ({"text": "x" * 2001}, "/text"),
        ({"text": "red", "negative_text": ""}, "/negative_text"),
        ({"text": "red", "negative_text": "x" * 2001}, "/negative_text"),
        ({"text": "red", "library": "hashes"}, "/text"),
        ({"image_id": ID, "text": "red", "library": "hashes"}, "/text"),
        ({"image_id": ID, "negative_text": "red", "library": "hashes"}, "/negative_text"),
        ({"text": "red", "models": ["phash", "clip"], "library": "default"}, "/text"),
        ({"image_id": ID, "text": "red", "models": ["phash"], "library": "default"}, "/text"),
        ({"text": "red", "mode": "near"}, "/mode"),
        ({"image_id": ID, "text": "red", "mode": "near"}, "/mode"),
        ({"image_id": ID, "negative_text": "red", "mode": "near"}, "/mode"),
        ({"text": "red", "region": [0, 0, 1, 1]}, "/region"),
        ({"text": "red", "negative": [ID], "region": [0, 0, 1, 1]}, "/region"),
        (
            {"text": "red", "library": "default", "max_distance": {"phash": 3}},
            "/max_distance/phash",
        ),
        ({"text": "red", "library": "default", "weights": {"phash": 3}}, "/weights/phash"),
    ],
)
def test_words_that_are_no_query_are_refused_with_their_place(
    client: Client, worker: StandIn, query: dict[str, Any], location: str
) -> None:
    worker.catalog.publish_models([summary("clip", has_text=True), summary("phash")])
    for name, refs in (("default", ["phash@1", "clip@1"]), ("words", ["clip@1"])):
        make_library(worker.redis, new_library(name, refs))
    make_library(worker.redis, new_library("hashes", ["phash@1"]))
    for name in ("default", "words", "hashes"):
        worker.add(image(ID, library=name))
    answer = client.post("/v1/search", json={"library": "words"} | query)
    problem = assert_problem(answer, 422, "validation-failed")
    assert [error["location"] for error in problem["errors"]] == [location]
    assert worker.queued() == []
