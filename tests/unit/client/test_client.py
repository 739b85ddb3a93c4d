"""What the commands ask of a service, how long they try, and what they tell of its answers."""

from __future__ import annotations

import json
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.paths import FIXTURES
from support.played import Service, as_json, as_json_page, busy, job_answer, listening, running

from twinlens.cli.upload.plan import MAX_BATCH_FILES
from twinlens.client.client import Client, Upload
from twinlens.client.errors import RequestFailed, UploadRefused
from twinlens.shared.errors import Unavailable
from twinlens.shared.messages import MAX_PAGE, Item
from twinlens.shared.queries import CompareQuery, DuplicatesQuery, SearchQuery

PICTURE = [Upload("a.jpg", b"bytes", {})]
PROBLEM = {
    "type": "about:blank",
    "title": "Bad",
    "status": 422,
    "detail": "The archive is cut short.",
    "instance": "/v1/images/bulk",
    "request_id": "r-17",
    "errors": [{"location": "/k", "message": "too many"}],
}


# Tries.


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long is waited between tries, on a clock that these waits move."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setattr(time, "monotonic", lambda: 1000 + sum(waited))
    return waited


def test_waits_between_tries_grow(waits: list[float]) -> None:
    service = Service([busy(503, None) for _ in range(9)])
    with service.client(outage_s=0) as client, pytest.raises(RequestFailed, match="503"):
        client.add_pictures(PICTURE, "default")
    assert waits == [0.5, 1, 2, 4]


def test_a_service_may_be_away_for_as_long_as_is_said(waits: list[float]) -> None:
    service = Service([httpx.ConnectError("refused") for _ in range(99)])
    with service.client(outage_s=60) as client:
        client.missing([], "default")
        with pytest.raises(RequestFailed, match="twinlens up"):
            client.add_pictures(PICTURE, "default")
    assert waits == [0.5, 1, 2, 4, 8, 10, 10, 10, 10, 10]


def test_the_time_of_an_outage_begins_with_its_first_failure(waits: list[float]) -> None:
    service = Service([busy(503), None, *(busy(503, "10") for _ in range(8))])
    with service.client(outage_s=60) as client:
        client.add_pictures(PICTURE, "default")
        time.sleep(100)
        waits.clear()
        with pytest.raises(RequestFailed, match="503"):
            client.add_pictures(PICTURE, "default")
    assert waits == [10] * 6


@pytest.mark.parametrize(
    ("said", "waited"),
    [("0", 0), ("7", 7), ("10", 10), ("3600", 10), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.5)],
)
def test_the_service_says_when_to_come_back(waits: list[float], said: str, waited: float) -> None:
    service = Service([busy(503, said)])
    with service.client() as client:
        client.add_pictures(PICTURE, "default")
    assert waits == [waited]


@pytest.mark.parametrize(("status", "n_tries"), [(500, 2), (507, 2), (404, 2)])
def test_whatever_says_when_to_come_back_is_tried_again(
    waits: list[float], status: int, n_tries: int
) -> None:
    service = Service([busy(status, "1")])
    with service.client() as client:
        client.add_pictures(PICTURE, "default")
    assert (len(service.bodies), waits) == (n_tries, [1])


@pytest.mark.parametrize("status", [502, 503, 504])
def test_what_a_restart_answers_is_tried_again(waits: list[float], status: int) -> None:
    service = Service([busy(status, None)])
    with service.client() as client:
        client.add_pictures(PICTURE, "default")
    assert (len(service.bodies), waits) == (2, [0.5])


@pytest.mark.parametrize("status", [400, 404, 409, 413, 429, 500, 501])
def test_what_does_not_is_not(waits: list[float], status: int) -> None:
    service = Service([busy(status, None)])
    with service.client() as client, pytest.raises(RequestFailed, match=str(status)):
        client.add_pictures(PICTURE, "default")
    assert (len(service.bodies), waits) == (1, [])


def test_an_answer_that_is_no_failure_is_taken_whatever_it_says(waits: list[float]) -> None:
    service = Service([as_json(job_answer("1" * 32, 1), **{"Retry-After": "1"})])
    with service.client() as client:
        assert client.add_pictures(PICTURE, "default").progress.succeeded == 1
    assert waits == []


def test_a_network_that_fails_is_waited_for_only_where_that_was_said(waits: list[float]) -> None:
    service = Service([httpx.ReadTimeout("")])
    with service.client(outage_s=0) as client:
        client.missing([], "default")
        with pytest.raises(RequestFailed, match="does not answer as it should: ReadTimeout"):
            client.add_pictures(PICTURE, "default")
    assert waits == []


def test_a_request_that_cannot_be_sent_is_not_tried_again(waits: list[float]) -> None:
    service = Service([httpx.UnsupportedProtocol("no such protocol")])
    with service.client() as client:
        client.missing([], "default")
        with pytest.raises(RequestFailed, match="no such protocol"):
            client.add_pictures(PICTURE, "default")
    assert waits == []


def test_an_archive_is_sent_again_from_its_beginning(tmp_path: Path, waits: list[float]) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(b"0123456789" * 300_000)
    read: list[int] = []
    service = Service([busy(503)])
    with service.client() as client:
        client.add_archive(archive, "application/zip", "cats", read.append)
    assert service.bodies == [archive.read_bytes()] * 2
    assert sum(read) == 2 * archive.stat().st_size
    assert max(read) == 1024 * 1024
    for request in service.requests:
        assert request.headers["Content-Type"] == "application/zip"
        assert request.headers["Content-Length"] == "3000000"
        assert dict(request.url.params) == {"library": "cats"}


# Uploads.


@pytest.mark.parametrize("status", [413, 415, 422])
def test_a_refused_upload_is_told_apart(tmp_path: Path, status: int) -> None:
    (tmp_path / "a.zip").touch()
    service = Service([httpx.Response(status, json=PROBLEM)])
    with service.client() as client, pytest.raises(UploadRefused) as raised:
        client.add_archive(tmp_path / "a.zip", "application/zip", "default", lambda _: None)
    assert str(raised.value) == ("The archive is cut short. /k: too many (request r-17)")


@pytest.mark.parametrize("status", [400, 404, 500])
def test_any_other_error_is_none_of_the_upload(status: int) -> None:
    service = Service([httpx.Response(status, json=PROBLEM)])
    with service.client() as client, pytest.raises(RequestFailed, match="cut short") as raised:
        client.add_pictures(PICTURE, "default")
    assert not isinstance(raised.value, UploadRefused)


def test_an_archive_that_breaks_off_while_it_is_read_is_refused(tmp_path: Path) -> None:
    # A folder has a size, and cannot be read.
    with Service().client() as client, pytest.raises(UploadRefused, match="Is a directory"):
        client.add_archive(tmp_path, "application/zip", "default", lambda _: None)


def test_a_batch_is_no_larger_than_what_may_be_asked_for_at_once() -> None:
    assert MAX_BATCH_FILES <= MAX_PAGE


def test_what_is_missing_is_asked_of_the_library() -> None:
    service = Service()
    service.there = {"1" * 64}
    with service.client() as client:
        assert client.missing(["1" * 64, "2" * 64], "cats").missing == ["2" * 64]
    [request] = service.requests
    assert dict(request.url.params) == {"library": "cats"}
    assert json.loads(request.content) == {"ids": ["1" * 64, "2" * 64], "described": {}}


# Jobs.


def items(*names: str) -> list[Item]:
    return [Item(name=name, image_id=None, outcome="failed") for name in names]


def test_failed_pictures_are_read_page_by_page_up_to_the_limit() -> None:
    service = Service()
    pages = {None: (items("a", "b"), "c1"), "c1": (items("c"), "c2"), "c2": (items("d"), "c3")}
    service.answers["/v1/jobs/j/items"] = lambda request: as_json_page(
        *pages[request.url.params.get("cursor")]
    )
    with service.client() as client:
        assert [one.name for one in client.failed_items("j", 4)] == ["a", "b", "c", "d"]
    asked = [dict(request.url.params) for request in service.requests]
    assert [one["limit"] for one in asked] == ["4", "2", "1"]
    assert {one["outcome"] for one in asked} == {"failed"}


def test_a_last_page_ends_the_reading() -> None:
    service = Service()
    service.answers["/v1/jobs/j/items"] = lambda _: as_json_page(items("a"))
    with service.client() as client:
        assert [one.name for one in client.failed_items("j", 20)] == ["a"]
    assert len(service.requests) == 1


@pytest.mark.parametrize(("wait_s", "prefer"), [(0, None), (7, "wait=7")])
def test_a_job_is_waited_for_by_the_service(wait_s: int, prefer: str | None) -> None:
    service = Service()
    service.jobs["j"] = running("j", 1)
    with service.client() as client:
        client.job("j", wait_s)
    assert service.requests[0].headers.get("Prefer") == prefer


def test_a_job_is_read_until_it_has_ended() -> None:
    service = Service()
    seen = [running("j", 1), running("j", 2), job_answer("j", 3)]
    service.answers["/v1/jobs/j"] = lambda _: as_json(seen.pop(0))
    with service.client() as client:
        assert client.wait(running("j", 0)).progress.succeeded == 3
        assert client.wait(job_answer("k", 5)).progress.succeeded == 5
    assert [one.headers["Prefer"] for one in service.requests] == ["wait=30"] * 3


# Queries.


def form_of(request: httpx.Request) -> list[tuple[str, bytes]]:
    """Returns the parts of a form: name and content."""
    boundary = request.headers["Content-Type"].partition("boundary=")[2].encode()
    parts = []
    for part in request.content.split(b"--" + boundary)[1:-1]:
        head, _, content = part.strip(b"\r\n").partition(b"\r\n\r\n")
        parts.append((head.split(b'name="')[1].split(b'"')[0].decode(), content))
    return parts


def failed_with(status: Any = "failed") -> Any:
    problem = Unavailable("Milvus is gone.").to_problem() if status == "failed" else None
    job = job_answer("j", 0, kind="search", status=status, error=problem)
    return lambda _: as_json(job)


def test_pictures_are_asked_with_in_a_form_and_each_as_what_it_is() -> None:
    service = Service()
    service.answers["/v1/search"] = failed_with()
    with service.client() as client, pytest.raises(RequestFailed) as raised:
        client.search(SearchQuery(k=3), [b"one", b"two"], [b"not this"])
    assert str(raised.value) == "the search failed: Milvus is gone."
    [request] = service.requests
    assert request.headers["Prefer"] == "wait=60"
    *files, (name, query) = form_of(request)
    assert files == [("file", b"one"), ("file", b"two"), ("negative", b"not this")]
    assert (name, json.loads(query)["k"]) == ("query", 3)


def test_words_are_asked_with_as_json() -> None:
    service = Service()
    service.answers["/v1/search"] = failed_with("cancelled")
    with service.client() as client, pytest.raises(RequestFailed) as raised:
        client.search(SearchQuery(text="a cat"))
    assert str(raised.value) == "the search cancelled: no reason is known"
    [request] = service.requests
    asked = json.loads(request.content)
    assert asked["text"] == "a cat"
    assert None not in asked.values()
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Prefer"] == "wait=60"


def test_duplicates_are_waited_for() -> None:
    service = Service()
    service.answers["/v1/duplicates"] = failed_with()
    with service.client() as client, pytest.raises(RequestFailed) as raised:
        client.find_duplicates(DuplicatesQuery())
    assert str(raised.value) == "the search for duplicates failed: Milvus is gone."
    assert service.requests[0].headers["Prefer"] == "wait=60"


def test_two_pictures_are_compared_at_once() -> None:
    service = Service()
    comparison = {"score": 0.5, "models": {"phash": {"distance": 3, "score": 0.5}}}
    service.answers["/v1/compare"] = lambda _: httpx.Response(200, json=comparison)
    with service.client() as client:
        assert client.compare(CompareQuery(image_ids=["1" * 64]), [b"other"]).score == 0.5
    [request] = service.requests
    assert "Prefer" not in request.headers
    assert form_of(request)[0] == ("file", b"other")


@pytest.mark.parametrize(
    ("method", "path", "params"),
    [
        ("jobs", "/v1/jobs", {"limit": "7"}),
        ("models", "/v1/models", {"limit": "1000"}),
        ("libraries", "/v1/libraries", {"limit": "1000"}),
    ],
)
def test_lists_are_read_as_long_as_they_may_be(
    method: str, path: str, params: dict[str, str]
) -> None:
    service = Service()
    service.answers[path] = lambda _: as_json_page([])
    with service.client() as client:
        assert getattr(client, method)(*([7] if method == "jobs" else [])) == []
    assert dict(service.requests[0].url.params) == params


# Who answers.


def told(url: str) -> str:
    """Returns what is said of a URL where no service is."""
    with pytest.raises(RequestFailed) as raised, Client(url) as client:
        client.stats()
    return str(raised.value)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(200, html="<html>"), "answered 200 with text/html from nginx:"),
        (httpx.Response(404, html="<html>"), "answered 404 with text/html from nginx:"),
        (httpx.Response(405), "answered 405 from nginx:"),
        (
            httpx.Response(301, headers={"Location": "https://pictures.invalid/"}),
            "answered 301 from nginx, which leads to https://pictures.invalid/:",
        ),
        (
            httpx.Response(404, json=PROBLEM | {"type": "urn:twinlens:problem:not-found"}),
            "answered 404 with application/json from nginx:",
        ),
    ],
)
def test_what_is_no_twinlens_is_told_by_what_it_answered(answer: httpx.Response, said: str) -> None:
    answer.headers["Server"] = "nginx"
    service = Service()
    service.answers["/v1/stats"] = lambda _: answer
    with service.client() as client, pytest.raises(RequestFailed) as raised:
        client.stats()
    end = " it is not a Twinlens service, or one of another version"
    assert str(raised.value) == f"http://127.0.0.1:1/v1/stats {said}{end}"


def test_a_proxy_whose_service_is_down_is_told(waits: list[float]) -> None:
    service = Service()
    service.answers["/v1/stats"] = lambda _: httpx.Response(502, html="<html>")
    with service.client(outage_s=0) as client, pytest.raises(RequestFailed, match="is it down"):
        client.stats()
    assert len(waits) == 4


def test_an_upload_that_a_proxy_refuses_is_refused() -> None:
    service = Service([httpx.Response(413, html="<html>")])
    with service.client() as client, pytest.raises(UploadRefused, match="answered 413"):
        client.add_pictures(PICTURE, "default")


@pytest.mark.parametrize(
    "url", ["pictures", "127.0.0.1:8000", "localhost:8000", "", "http://", "ftp://127.0.0.1"]
)
def test_what_is_no_url_of_a_service_is_told(url: str) -> None:
    assert told(url) == (
        f"{url or 'an empty text'} is not a URL of a service; such a one is http://127.0.0.1:8000"
    )


def test_what_is_no_url_is_told() -> None:
    assert told("http://[::1").startswith("http://[::1 is not a URL: ")


def test_a_service_without_tls_is_told() -> None:
    with listening(Service()) as url:
        secure = url.replace("http:", "https:")
        assert told(secure) == f"what answers at {secure} does not speak https; is it {url}?"


def test_a_certificate_that_nobody_trusts_is_told() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(FIXTURES / "localhost.pem")
    with replying(b"", context) as url:
        secure = url.replace("http:", "https:")
        assert told(secure).startswith(f"the certificate of {secure} is not trusted: ")


@contextmanager
def replying(reply: bytes, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Has something listen that answers each connection so, and ends it."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(ssl.SSLError):  # who does not trust it hangs up
                peer = tls.wrap_socket(self.request, server_side=True) if tls else self.request
                peer.recv(65_536)
                peer.sendall(reply)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("reply", [b"-ERR unknown command 'GET'\r\n", b""])
def test_the_port_of_something_else_is_told(reply: bytes) -> None:
    with replying(reply) as url:
        said = told(url)
    assert said.startswith(f"what answers at {url} does not speak HTTP as a Twinlens service does")
    assert said.endswith("; is the port right?")


# What goes on.


def test_who_breaks_off_is_told_which_jobs_go_on() -> None:
    service = Service([as_json(running("a", 0, total=1)), as_json(job_answer("b", 1))])
    client, interrupt = service.client(), KeyboardInterrupt()
    for _ in range(2):
        client.add_pictures(PICTURE, "default")
    assert [job.id for job in client.open_jobs] == ["a"]
    client.__exit__(KeyboardInterrupt, interrupt, None)
    assert interrupt.__notes__ == ["job a goes on: `twinlens jobs a` shows it"]


def test_a_proxy_is_no_way_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with listening(Service()) as url, Client(f"{url}/") as client:
        assert client.missing(["1" * 64], "default").missing == ["1" * 64]


def test_a_service_elsewhere_is_reached_as_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = Service()
    with listening(service) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        monkeypatch.delenv("SSL_CERT_DIR", raising=False)
        with Client("http://pictures.invalid") as client:
            assert client.missing(["1" * 64], "default").missing == ["1" * 64]
    [request] = service.requests
    assert request.headers["Host"] == "pictures.invalid"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSL_CERT_FILE", "/nonexistent/certificates.pem"),
        ("http_proxy", "telnet://127.0.0.1:9"),
        ("https_proxy", "http://[::1"),
        ("all_proxy", "socks5://127.0.0.1:9"),
    ],
)
def test_an_environment_that_leads_nowhere_is_told(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(RequestFailed, match=rf"environment names .*{name}.* cannot be used: .+"):
        Client("http://pictures.invalid")
