"""The key that a client sends, to whom, and what it says where it is refused."""

from __future__ import annotations

from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner
from support.played import Service, as_json_page, listening

from twinlens.cli.main import main
from twinlens.client.client import Client
from twinlens.client.errors import RequestFailed
from twinlens.shared.answers import ProblemDetails
from twinlens.shared.errors import KeyNeeded, NotAllowed, TwinlensError

LIBRARIES = "/v1/libraries"


@pytest.fixture
def service() -> Service:
    service = Service()
    service.answers[LIBRARIES] = lambda _: as_json_page([])
    return service


def sent(service: Service, **options: Any) -> list[str | None]:
    with Client("http://127.0.0.1:1", httpx.MockTransport(service.answer), **options) as client:
        client.libraries()
    return [request.headers.get("Authorization") for request in service.requests]


def test_without_a_key_none_is_sent(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWINLENS_KEY", raising=False)
    assert sent(service) == [None]
    monkeypatch.setenv("TWINLENS_KEY", "")
    assert sent(service)[-1] is None


def test_the_key_of_the_environment_is_sent_unless_another_is_given(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINLENS_KEY", " twinlens_a_b\n")
    assert sent(service) == ["Bearer twinlens_a_b"]
    assert sent(service, key="twinlens_c_d")[-1] == "Bearer twinlens_c_d"
    assert sent(service, key="")[-1] is None


@pytest.mark.parametrize("key", ["two words", "two\nlines", "Schlüssel", "a\x00b"])
def test_what_cannot_be_a_key_is_told_and_not_repeated(key: str) -> None:
    with pytest.raises(RequestFailed, match="TWINLENS_KEY") as refused:
        Client("http://127.0.0.1:1", key=key)
    assert key not in str(refused.value)


def test_no_command_takes_a_key_as_an_option() -> None:
    """Options are shown by `ps` to everybody."""

    def options_of(command: click.Command) -> set[str]:
        own = {option for one in command.params for option in one.opts if option[0] == "-"}
        group = command.commands.values() if isinstance(command, click.Group) else ()
        return own.union(*map(options_of, group))

    assert {option for option in options_of(main) if "key" in option} == set()


def test_a_redirect_does_not_take_the_key_elsewhere(service: Service) -> None:
    with listening(service) as elsewhere, listening(other := Service()) as url:
        other.answers[LIBRARIES] = lambda _: httpx.Response(
            307, headers={"Location": f"{elsewhere}{LIBRARIES}"}
        )
        with Client(url, key="twinlens_a_b") as client, pytest.raises(RequestFailed, match="leads"):
            client.libraries()
    assert len(other.requests) == 1
    assert service.requests == []


def refuse(service: Service, error: TwinlensError) -> None:
    details = error.to_problem().model_dump(exclude={"retryable"})
    problem = ProblemDetails(**details, instance="/v1/stats", request_id="r-1")
    service.answers["/v1/stats"] = lambda _: httpx.Response(
        error.status, content=problem.model_dump_json()
    )


def test_where_a_key_is_needed_it_is_told_where_to_put_it(service: Service) -> None:
    refuse(service, KeyNeeded("The key is not one of this service."))
    with listening(service) as url:
        done = CliRunner().invoke(main, ["stats", "--url", url], env={"TWINLENS_KEY": "mine"})
    assert done.exit_code == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("twinlens: 127.0.0.1 wants a key in the environment, as TWINLENS_KEY;")
    assert line.endswith("The key is not one of this service. (request r-1)")
    assert "mine" not in done.output
    assert [one.headers["Authorization"] for one in service.requests] == ["Bearer mine"]


def test_where_a_key_lacks_a_scope_it_is_told_which(service: Service) -> None:
    refuse(service, NotAllowed("This needs a key with the scope admin; the key has read."))
    with listening(service) as url:
        done = CliRunner().invoke(main, ["stats", "--url", url])
    assert (done.exit_code, done.stderr) == (
        1,
        "twinlens: This needs a key with the scope admin; the key has read. (request r-1)\n",
    )
