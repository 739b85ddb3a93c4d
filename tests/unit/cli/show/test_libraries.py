"""Changes of libraries, followed by a client whose service is played."""

from __future__ import annotations

from typing import Any

import click
import httpx
import pytest

from twinlens.cli.show.libraries import change_library, show_plan
from twinlens.client.client import Client
from twinlens.shared.answers import JobAnswer, LibraryAnswer, LibraryPlan, Progress
from twinlens.shared.errors import ReindexFailed
from twinlens.shared.libraries import new_library
from twinlens.shared.messages import now

PLAN = LibraryPlan(models=["phash"])
LIBRARY = LibraryAnswer(**new_library("some", ["phash@1"]).model_dump())


def reindex(status: Any, n_done: int) -> JobAnswer:
    has_ended = status != "running"
    problem = ReindexFailed("A picture does not find itself.").to_problem()
    return JobAnswer(
        id="1" * 32,
        kind="reindex",
        library="some",
        status=status,
        progress=Progress(total=9, received=9, succeeded=n_done, skipped=0, failed=0),
        created_at=now(),
        started_at=now(),
        finished_at=now() if has_ended else None,
        expires_at=None,
        result=None,
        error=problem if status == "failed" else None,
        links={},
    )


def changed(polls: list[Any], *, is_followed: bool = True) -> None:
    """Changes a library, for which the service needs a job that is seen again and again."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            content = reindex("running", 0).model_dump_json()
            return httpx.Response(202, headers={"Location": "/v1/jobs/1"}, content=content)
        if request.url.path == "/v1/libraries/some":
            return httpx.Response(200, content=LIBRARY.model_dump_json())
        seen = polls.pop(0)
        if isinstance(seen, BaseException):
            raise seen
        return httpx.Response(200, content=seen.model_dump_json())

    with Client("http://127.0.0.1:1", httpx.MockTransport(answer)) as client:
        show_plan(client, change_library(client, "some", PLAN, is_followed=is_followed))


def test_a_change_is_followed_until_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    polls = [reindex("running", 3), reindex("running", 6), reindex("succeeded", 9)]
    changed(polls)
    assert not polls
    assert capsys.readouterr().out.strip() == ("library some at http://127.0.0.1:1 now has phash@1")


def test_a_job_that_is_not_waited_for_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    changed([], is_followed=False)
    assert capsys.readouterr().out == "1" * 32 + "\n"


def test_who_breaks_off_is_told_that_the_job_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt) as raised:
        changed([reindex("running", 3), KeyboardInterrupt()])
    assert raised.value.__notes__ == [
        "`twinlens libraries rollback some` cancels the change",
        f"job {'1' * 32} goes on: `twinlens jobs {'1' * 32}` shows it",
    ]
    assert "now has phash@1" not in capsys.readouterr().out


def test_a_change_that_fails_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(click.exceptions.Exit) as raised:
        changed([reindex("failed", 8)])
    assert raised.value.exit_code == 1
    assert "A picture does not find itself." in capsys.readouterr().err


@pytest.mark.parametrize("status", [200, 201])
def test_a_library_that_needs_no_job_is_read_at_once(status: int) -> None:
    transport = httpx.MockTransport(
        lambda _: httpx.Response(status, content=LIBRARY.model_dump_json())
    )
    with Client("http://127.0.0.1:1", transport) as client:
        assert client.put_library("some", PLAN) == LIBRARY


def test_a_job_that_has_ended_already_is_no_library() -> None:
    job = reindex("succeeded", 9)
    headers = {"Location": "/v1/jobs/1"}
    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, headers=headers, content=job.model_dump_json())
    )
    with Client("http://127.0.0.1:1", transport) as client:
        read = client.put_library("some", PLAN)
    assert isinstance(read, JobAnswer)
    assert read.id == job.id


def test_a_name_is_no_path_of_something_else() -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path)
        return httpx.Response(200, content=reindex("succeeded", 9).model_dump_json())

    with Client("http://127.0.0.1:1", httpx.MockTransport(answer)) as client:
        client.remove_library("some?all/of")
    assert asked == [b"/v1/libraries/some%3Fall%2Fof"]
