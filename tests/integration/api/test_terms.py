"""What is said with a request for a job, whatever that is: who is told of its end, by when."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from support.plain_uploads import IDS, PICTURES, job_of
from support.receivers import SECRET
from support.records import image, summary
from support.requests import assert_problem, client_of, form_body

from twinlens.shared.errors import BrokenPicture
from twinlens.shared.messages import Item

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.requests import Client
    from support.stand_in import StandIn

    from twinlens.shared.settings import Settings

URL = "https://hooks.example/twinlens?of=ours"
RED = PICTURES["red.png"]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    hosts = ["hooks.example", "Hooks.example:8443", "http://localhost:9000", "bücher.example"]
    return settings.model_copy(update={"webhook_hosts": hosts, "webhook_secret": SECRET})


@pytest.fixture
def there(worker: StandIn) -> StandIn:
    """A library of an image, and another library."""
    worker.announce("search")
    worker.announce("bulk")
    worker.serve("phash", "lite0")
    worker.serve("phash", library="art")
    worker.catalog.publish_models([summary("phash", metric="HAMMING"), summary("vgg16")])
    worker.add(image(IDS[0]))
    return worker


def post_bulk(client: Client, **terms: Any) -> Any:
    return client.post("/v1/images/bulk", **form_body([("files", ("a.png", RED))]), **terms)


def post_one(client: Client, **terms: Any) -> Any:
    return client.post("/v1/images", data=RED, content_type="image/png", **terms)


def search(client: Client, **terms: Any) -> Any:
    return client.post("/v1/search", json={"image_id": IDS[0]}, **terms)


def find_duplicates(client: Client, **terms: Any) -> Any:
    return client.post("/v1/duplicates", json={}, **terms)


def delete_images(client: Client, **terms: Any) -> Any:
    return client.post("/v1/images/delete", json={"ids": IDS}, **terms)


def retry(client: Client, **terms: Any) -> Any:
    [job_id] = [job["id"] for job in client.get("/v1/jobs?status=failed").json["items"]]
    return client.post(f"/v1/jobs/{job_id}/retry", **terms)


def delete_image(client: Client, **terms: Any) -> Any:
    return client.delete(f"/v1/images/{IDS[0]}", **terms)


def delete_library(client: Client, **terms: Any) -> Any:
    return client.delete("/v1/libraries/art", **terms)


def put_library(client: Client, **terms: Any) -> Any:
    return client.put("/v1/libraries/default", json={"models": ["phash", "vgg16"]}, **terms)


def fail_one(client: Client, worker: StandIn) -> None:
    job_id = post_one(client).json["id"]
    problem = BrokenPicture("It is broken.").to_problem()
    item = Item(name="", image_id=None, outcome="failed", error=problem)
    worker.finish_chunk(job_id, 0, [item])


REPEATABLE = [post_bulk, post_one, search, find_duplicates, delete_images, retry]
ASKED = pytest.mark.parametrize("ask", [*REPEATABLE, delete_image, delete_library, put_library])


@ASKED
def test_whatever_makes_a_job_may_name_who_is_told_of_its_end(
    client: Client, there: StandIn, ask: Callable[..., Any]
) -> None:
    fail_one(client, there)
    answer = ask(client, query_string={"webhook": URL})
    assert answer.status_code == 202, answer.text
    told = {"url": URL, "status": "pending", "attempts": 0}
    told |= {"last_error": None, "next_attempt_at": None}
    assert answer.json["webhook"] == told
    assert job_of(client, answer.json["id"])["webhook"] == told


@ASKED
def test_nothing_is_done_where_a_webhook_is_not_allowed(
    client: Client, there: StandIn, ask: Callable[..., Any]
) -> None:
    fail_one(client, there)
    before = client.get("/v1/jobs").json["items"], client.get("/v1/libraries").json
    answer = ask(client, query_string={"webhook": "https://elsewhere.example/"})
    problem = assert_problem(answer, 422, "validation-failed")
    [error] = problem["errors"]
    assert error["location"] == "query:webhook"
    assert error["message"].endswith("is not one of TWINLENS_WEBHOOK_HOSTS.")
    assert (client.get("/v1/jobs").json["items"], client.get("/v1/libraries").json) == before


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example",
        "https://HOOKS.example.:443/a",
        "https://hooks.example:8443/a",
        "http://localhost:9000/a",
        "https://xn--bcher-kva.example/",
        "https://bücher.example/ü",
    ],
)
def test_a_host_is_known_in_each_of_its_forms(client: Client, url: str) -> None:
    answer = post_one(client, query_string={"webhook": url})
    assert (answer.status_code, answer.json["webhook"]["url"]) == (202, url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example",
        "/hook",
        "http://hooks.example/",
        "https://localhost:9000/",
        "https://hooks.example:444/",
        "https://me@hooks.example/",
        "https://me:secret@hooks.example/",
        "https://hooks.example/#there",
        "https://hooks.example:x/",
        "https://hooks.example@elsewhere.example/",
        "https://[::1/",
        "https://hooks..example/",
        "file:///hooks.example",
        "https://sub.hooks.example/",
        "https://hooks.example/\nx",
        "https://hooks.example/\u202ex",
        "https://hooks.example/" + "a" * 2048,
    ],
)
def test_any_other_url_is_refused(client: Client, url: str) -> None:
    answer = post_one(client, query_string={"webhook": url})
    problem = assert_problem(answer, 422, "validation-failed")
    assert [error["location"] for error in problem["errors"]] == ["query:webhook"]
    assert "secret" not in answer.text


def test_without_a_secret_no_webhook_is_taken(settings: Settings, client: Client) -> None:
    client = client_of(settings.model_copy(update={"webhook_secret": ""}))
    answer = post_one(client, query_string={"webhook": URL})
    problem = assert_problem(answer, 422, "validation-failed")
    assert "TWINLENS_WEBHOOK_SECRET" in problem["errors"][0]["message"]


@pytest.mark.parametrize("ask", REPEATABLE)
def test_a_key_stands_for_one_request_with_its_webhook(
    client: Client, there: StandIn, ask: Callable[..., Any]
) -> None:
    fail_one(client, there)
    asked = {"headers": {"Idempotency-Key": "mine"}, "query_string": {"webhook": URL}}
    first, again = ask(client, **asked), ask(client, **asked)
    assert first.status_code == again.status_code == 202, first.text
    assert first.json == again.json
    for query in ({}, {"webhook": f"{URL}&more"}, {"webhook": URL, "deadline_s": "9"}):
        other = ask(client, **asked | {"query_string": query})
        assert_problem(other, 422, "idempotency-conflict")


@ASKED
def test_whatever_makes_a_job_that_may_be_given_up_takes_a_deadline(
    client: Client, there: StandIn, ask: Callable[..., Any]
) -> None:
    fail_one(client, there)
    answer = ask(client, query_string={"deadline_s": "90"})
    if ask is delete_library:
        assert_problem(answer, 422, "validation-failed")
        return
    assert answer.status_code == 202, answer.text
    times = [datetime.fromisoformat(answer.json[name]) for name in ("created_at", "deadline_at")]
    assert times[1] - times[0] == timedelta(seconds=90)


@pytest.mark.parametrize("deadline_s", ["0", "-1", "1.5", "soon", str(31 * 86_400)])
def test_a_deadline_that_is_none_is_refused(client: Client, deadline_s: str) -> None:
    answer = post_one(client, query_string={"deadline_s": deadline_s})
    problem = assert_problem(answer, 422, "validation-failed")
    assert [error["location"] for error in problem["errors"]] == ["query:deadline_s"]


def test_the_document_says_what_is_sent(client: Client) -> None:
    document = client.get("/openapi.json").json
    [webhook] = document["webhooks"].values()
    content = webhook["post"]["requestBody"]["content"]
    assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/JobEvent"}
    event = document["components"]["schemas"]["JobEvent"]
    assert event["required"] == ["type", "timestamp", "data"]
