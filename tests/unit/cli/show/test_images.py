"""`twinlens images …`, at a service that is played."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import httpx
import pytest
from click.testing import CliRunner, Result
from support.played import Service, as_json, job_answer, listening, running

from twinlens.cli.main import main
from twinlens.shared.answers import ImagePage
from twinlens.shared.errors import ImageNotFound
from twinlens.shared.libraries import new_library
from twinlens.shared.messages import Image

DAY = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
Run = Callable[..., Result]


def image(digit: str) -> Image:
    return Image(
        id=digit * 64,
        name=f"{digit}.jpg",
        library="cats",
        width=4,
        height=3,
        format="image/jpeg",
        bytes=5,
        metadata={"city": "Paris", "tags": ["a", "b"]},
        models=["phash@1"],
        added_at=DAY,
    )


class Images:
    """The images of a library, which are removed by jobs."""

    def __init__(self, service: Service, *digits: str) -> None:
        self.there = {digit * 64: image(digit) for digit in digits}
        self.staying: set[str] = set()
        service.answers["/v1/libraries/cats"] = lambda _: as_json(new_library("cats", ["phash@1"]))
        for digit in "123":
            service.answers[f"/v1/images/{digit * 64}"] = self.answer
            # A removal is a job that has not ended at once.
            service.jobs[digit] = job_answer(digit, 1, kind="delete")

    def answer(self, request: httpx.Request) -> httpx.Response:
        image_id = request.url.path.rpartition("/")[2]
        if image_id not in self.there:
            problem = ImageNotFound("There is none.").to_problem()
            content = problem.model_dump(mode="json") | {"instance": "", "request_id": "r"}
            return httpx.Response(404, json=content)
        if request.method == "GET":
            return as_json(self.there[image_id])
        if image_id not in self.staying:
            del self.there[image_id]
        return as_json(running(image_id[0], 0, kind="delete"))


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def run(service: Service) -> Iterator[Run]:
    with listening(service) as url:

        def invoke(*words: str, **options: str) -> Result:
            command = ["images", *words, "--library", "cats", "--url", url]
            return CliRunner().invoke(main, command, **options)  # type: ignore[arg-type]

        yield invoke


def test_images_are_listed_page_by_page(service: Service, run: Run) -> None:
    page = ImagePage(items=[image("1"), image("2")], next_cursor="there")
    service.answers["/v1/images"] = lambda _: as_json(page)
    done = run("list", "--limit", "2", "--cursor", "here")
    assert [line.split("\t") for line in done.stdout.splitlines()] == [
        ["id", "name", "size", "added"],
        ["1" * 64, "1.jpg", "4 x 3", "2026-03-04 05:06:07Z"],
        ["2" * 64, "2.jpg", "4 x 3", "2026-03-04 05:06:07Z"],
    ]
    assert done.stderr == "there are more: --cursor there\n"
    assert dict(service.requests[0].url.params) == {
        "library": "cats",
        "limit": "2",
        "cursor": "here",
    }
    assert ImagePage.model_validate_json(run("list", "--json").stdout) == page


def test_an_image_is_shown_with_its_metadata(service: Service, run: Run) -> None:
    Images(service, "1")
    shown = run("show", "1" * 64).stdout.splitlines()
    assert shown[1:4] == [
        "name     1.jpg",
        "library  cats",
        "size     4 x 3, image/jpeg, 5 bytes",
    ]
    assert shown[-2:] == ["  city: Paris", "  tags: a, b"]
    refused = run("show", "2" * 64, "--json")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr == "twinlens: There is none. (request r)\n"
    assert run("show", "1.jpg").exit_code == 2


def test_what_is_really_gone_is_told(service: Service, run: Run) -> None:
    images = Images(service, "1", "2")
    images.staying = {"2" * 64}
    done = run("delete", "1" * 64, "2" * 64, "3" * 64, "1" * 64, "--yes")
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        f"deleted: {'1' * 64} (1.jpg)",
        f"still there: {'2' * 64} (2.jpg)",
        f"not there: {'3' * 64}",
    ]
    # Each job was waited for.
    assert len([one for one in service.requests if one.url.path.startswith("/v1/jobs")]) == 2


def test_where_all_are_gone_the_status_is_0(service: Service, run: Run) -> None:
    Images(service, "1")
    done = run("delete", "1" * 64, "--yes", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    outcome = {"id": "1" * 64, "name": "1.jpg", "outcome": "deleted"}
    assert json.loads(done.stdout) == {"items": [outcome]}


@pytest.mark.parametrize(("said", "status"), [("y\n", 0), ("n\n", 1), ("", 1)])
def test_images_are_deleted_when_the_user_has_said_so(
    service: Service, run: Run, said: str, status: int
) -> None:
    images = Images(service, "1")
    done = run("delete", "1" * 64, "--json", input=said)
    assert done.exit_code == status
    assert "Delete 1.jpg of library cats" in done.stderr
    assert bool(images.there) is (status != 0)
    assert bool(done.stdout) is (status == 0)
