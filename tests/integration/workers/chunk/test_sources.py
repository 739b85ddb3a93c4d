"""Pictures of allowed hosts, from a real https server on loopback."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from support.paths import FIXTURES

from twinlens.shared.errors import (
    EmptyPicture,
    PayloadTooLarge,
    SourceFailed,
    SourceRefused,
    TwinlensError,
)
from twinlens.shared.settings import Settings
from twinlens.workers.chunk import sources as module
from twinlens.workers.chunk.sources import Sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    MakeSources = Callable[..., Sources]
    Resolve = Callable[..., list[str]]

CERTIFICATE = FIXTURES / "localhost.pem"
MAX_BYTES = 100_000
OTHER_HOST = "pictures.example"

real_getaddrinfo = socket.getaddrinfo


@dataclass
class Site:
    """What the server answers, and what it was asked."""

    port: int
    answers: dict[str, list[Callable[[BaseHTTPRequestHandler], None]]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    clients: set[Any] = field(default_factory=set)
    is_over: threading.Event = field(default_factory=threading.Event)

    def uri(self, path: str, host: str = "localhost") -> str:
        return f"https://{host}:{self.port}{path}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append((handler.path, dict(handler.headers)))
        self.clients.add(handler.client_address)
        answers = self.answers[handler.path]
        (answers.pop(0) if len(answers) > 1 else answers[0])(handler)

    def drip(self, handler: BaseHTTPRequestHandler, head: bytes) -> None:
        """Sends a byte every 20 ms, for 20 s, or until no one listens."""
        handler.close_connection = True
        with contextlib.suppress(OSError):
            handler.wfile.write(head)
            for _ in range(1000):
                handler.wfile.write(b"x")
                if self.is_over.wait(0.02):
                    return


def say(status: int, body: bytes = b"", **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        with contextlib.suppress(OSError):  # who has seen enough hangs up
            handler.wfile.write(body)

    return answer


def say_until_closed(body: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        with contextlib.suppress(OSError):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + body)

    return answer


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


@pytest.fixture(name="site")
def running_site() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def do_GET(self) -> None:
            site.answer(self)

        def log_message(self, *args: object) -> None:
            pass

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATE)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False  # so that leaving waits for every answer
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        site = Site(server.server_port)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield site
        site.is_over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def make_sources(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeSources]:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    made: list[Sources] = []

    def make(**changes: Any) -> Sources:
        allowed: dict[str, Any] = {
            "allowed_hosts": [f"localhost:{site.port}", f"{OTHER_HOST}:{site.port}"],
            "allowed_networks": ["127.0.0.0/8", "::1/128"],
            "max_picture_bytes": MAX_BYTES,
        }
        made.append(Sources(Settings(**(allowed | changes))))
        return made[-1]

    yield make
    for sources in made:
        sources.close()


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Makes names resolve to given addresses, the last ones for good; returns what was asked."""

    def start(*answers: list[str]) -> list[str]:
        left, asked = list(answers), list[str]()

        def fake(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
            if host[0].isdigit():
                return real_getaddrinfo(host, port, *args, **kwargs)
            asked.append(host)
            addresses = left.pop(0) if len(left) > 1 else left[0]
            if not addresses:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [real_getaddrinfo(one, port, type=socket.SOCK_STREAM)[0] for one in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", fake)
        return asked

    return start


def refusal_of(sources: Sources, uri: str, error: type[TwinlensError] = SourceRefused) -> str:
    with pytest.raises(error) as refused:
        sources.fetch(uri)
    assert "127.0.0" not in refused.value.detail
    return refused.value.detail


def test_a_picture_is_fetched(site: Site, make_sources: MakeSources) -> None:
    site.answers["/a/c%C3%A4t.jpg?size=2&q=%C3%A4%20"] = [say(200, b"cat")]
    sources = make_sources()
    assert sources.fetch(site.uri("/a/c%C3%A4t.jpg?size=2&q=ä%20")) == b"cat"
    ((_, headers),) = site.asked
    assert headers["Host"] == f"localhost:{site.port}"
    assert headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("path", ["/", "/a//b.jpg", "/a/../b.jpg", "/a;b=1/c,d.jpg", "/?a=/?b"])
def test_a_path_is_sent_as_it_is_listed(site: Site, make_sources: MakeSources, path: str) -> None:
    site.answers = {path: [say(200, b"cat")]}
    assert make_sources().fetch(site.uri(path)) == b"cat"


def test_a_host_is_the_same_however_it_is_written(site: Site, make_sources: MakeSources) -> None:
    site.answers["/cat.jpg"] = [say(200, b"cat")]
    sources = make_sources(allowed_hosts=[f"LocalHost.:{site.port}"])
    for host in ("localhost", "LOCALHOST", "localhost."):
        assert sources.fetch(site.uri("/cat.jpg", host)) == b"cat"


def test_a_name_of_other_letters_is_its_idna_form(
    site: Site, make_sources: MakeSources, resolve: Resolve
) -> None:
    asked = resolve(["127.0.0.1"])
    sources = make_sources(allowed_hosts=[f"bücher.example:{site.port}"])
    refusal_of(sources, site.uri("/cat.jpg", "BÜCHER.example"), SourceFailed)
    assert set(asked) == {"xn--bcher-kva.example"}


def test_no_proxy_is_taken_from_the_environment(
    site: Site, make_sources: MakeSources, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    site.answers["/cat.jpg"] = [say(200, b"cat")]
    assert make_sources().fetch(site.uri("/cat.jpg")) == b"cat"


def test_threads_share_a_source_and_its_connections(site: Site, make_sources: MakeSources) -> None:
    sources = make_sources()
    for n in range(40):
        site.answers[f"/{n}"] = [say(200, f"picture {n}".encode())]
    with ThreadPoolExecutor(4) as pool:
        contents = list(pool.map(sources.fetch, [site.uri(f"/{n}") for n in range(40)]))
    assert contents == [f"picture {n}".encode() for n in range(40)]
    assert len(site.clients) <= 4


@pytest.mark.parametrize(
    "entry", ["other.example:{port}", "localhost", "localhost:1", "host:{port}"]
)
def test_a_host_that_is_not_allowed_is_not_asked(
    site: Site, make_sources: MakeSources, resolve: Resolve, entry: str
) -> None:
    asked = resolve(["127.0.0.1"])
    sources = make_sources(allowed_hosts=[entry.format(port=site.port)])
    assert "TWINLENS_ALLOWED_HOSTS" in refusal_of(sources, site.uri("/cat.jpg"))
    assert "TWINLENS_ALLOWED_HOSTS" in refusal_of(make_sources(), "https://localhost/cat.jpg")
    assert asked == []


def test_who_is_before_the_at_sign_is_not_the_host(site: Site, make_sources: MakeSources) -> None:
    uri = f"https://localhost:{site.port}@evil.example/cat.jpg"
    assert "'evil.example'" in refusal_of(make_sources(), uri)


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["127.0.0.2", "10.0.0.1"], ["10.0.0.1", "127.0.0.2"], ["::ffff:127.0.0.1"]],
)
def test_a_host_with_a_private_address_is_refused(
    site: Site, make_sources: MakeSources, resolve: Resolve, addresses: list[str]
) -> None:
    site.answers["/cat.jpg"] = [say(200, b"cat")]
    resolve(addresses)
    sources = make_sources(allowed_networks=["127.0.0.2/32"])
    detail = refusal_of(sources, site.uri("/cat.jpg"))
    assert "TWINLENS_ALLOWED_NETWORKS" in detail
    assert site.clients == set()


def test_what_was_checked_is_what_is_connected_to(
    site: Site, make_sources: MakeSources, resolve: Resolve
) -> None:
    site.answers["/cat.jpg"] = [say(200, b"cat")]
    asked = resolve(["127.0.0.1"], ["10.0.0.1"])
    assert make_sources().fetch(site.uri("/cat.jpg")) == b"cat"
    assert asked == ["localhost"]


def test_a_dead_address_gives_way_to_the_next(
    site: Site, make_sources: MakeSources, resolve: Resolve
) -> None:
    site.answers["/cat.jpg"] = [say(200, b"cat")]
    resolve(["127.0.0.2", "127.0.0.1"])
    assert make_sources().fetch(site.uri("/cat.jpg")) == b"cat"


@contextlib.contextmanager
def black_hole(address: str, port: int = 0) -> Iterator[int]:
    """Takes no connection, and refuses none: the queue of those that wait is full."""
    with contextlib.ExitStack() as held:
        hole = held.enter_context(socket.socket())
        hole.bind((address, port))
        hole.listen(0)
        for _ in range(4):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(hole.getsockname())
        yield hole.getsockname()[1]


def test_an_address_that_says_nothing_leaves_time_for_the_next(
    site: Site, make_sources: MakeSources, resolve: Resolve
) -> None:
    site.answers["/cat.jpg"] = [say(200, b"cat")]
    resolve(["127.0.0.2", "127.0.0.1"])
    with black_hole("127.0.0.2", site.port):
        sources = make_sources(fetch_timeout_s=3)
        assert sources.fetch(site.uri("/cat.jpg")) == b"cat"


def test_a_host_that_takes_no_connection_ends_with_the_deadline(make_sources: MakeSources) -> None:
    with black_hole("127.0.0.1") as port:
        sources = make_sources(allowed_hosts=[f"localhost:{port}"], fetch_timeout_s=0.3)
        detail = refusal_of(sources, f"https://localhost:{port}/cat.jpg", SourceFailed)
    assert detail == "The host 'localhost' did not answer in time."


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0"])
def test_a_private_address_is_refused_however_it_is_written(
    site: Site, make_sources: MakeSources, host: str
) -> None:
    sources = make_sources(allowed_hosts=[f"{host}:{site.port}"], allowed_networks=[])
    assert "TWINLENS_ALLOWED_NETWORKS" in refusal_of(sources, site.uri("/cat.jpg", host))
    assert site.clients == set()


def test_a_name_that_cannot_be_resolved_fails(
    site: Site, make_sources: MakeSources, resolve: Resolve
) -> None:
    asked = resolve([])
    detail = refusal_of(make_sources(), site.uri("/cat.jpg"), SourceFailed)
    assert detail == "The host 'localhost' cannot be reached, or closed the connection."
    assert len(asked) == 3


def test_a_certificate_must_be_for_the_name(
    site: Site, make_sources: MakeSources, resolve: Resolve
) -> None:
    site.answers["/cat.jpg"] = [say(200, b"cat")]
    resolve(["127.0.0.1"])
    detail = refusal_of(make_sources(), site.uri("/cat.jpg", OTHER_HOST), SourceFailed)
    assert "no certificate that is valid" in detail
    assert site.asked == []


def test_a_certificate_must_be_trusted(
    site: Site, make_sources: MakeSources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    detail = refusal_of(make_sources(), site.uri("/cat.jpg"), SourceFailed)
    assert "no certificate that is valid" in detail
    assert site.asked == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(site: Site, make_sources: MakeSources, status: int) -> None:
    site.answers["/old.jpg"] = [say(status, Location="/cat.jpg")]
    site.answers["/cat.jpg"] = [say(200, b"cat")]
    assert "list the final address" in refusal_of(make_sources(), site.uri("/old.jpg"))
    assert len(site.asked) == 1


@pytest.mark.parametrize("status", [204, 206, 400, 401, 403, 404, 410])
def test_a_status_that_stays_is_not_tried_again(
    site: Site, make_sources: MakeSources, status: int
) -> None:
    site.answers["/cat.jpg"] = [say(status)]
    detail = refusal_of(make_sources(), site.uri("/cat.jpg"), SourceFailed)
    assert detail == f"The host 'localhost' answered with status {status}."
    assert len(site.asked) == 1


@pytest.mark.parametrize("first", [say(500, b"oops"), say(429), say(503), hang_up])
def test_what_passes_is_tried_again(
    site: Site, make_sources: MakeSources, first: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    site.answers["/cat.jpg"] = [first, first, say(200, b"cat")]
    assert make_sources().fetch(site.uri("/cat.jpg")) == b"cat"
    assert len(site.asked) == 3


def test_a_picture_that_is_cut_short_is_fetched_anew(site: Site, make_sources: MakeSources) -> None:
    site.answers["/cat.jpg"] = [
        say(200, b"ca", Content_Length="3", Connection="close"),
        say(200, b"cat"),
    ]
    assert make_sources().fetch(site.uri("/cat.jpg")) == b"cat"


def test_the_third_failure_is_the_last(site: Site, make_sources: MakeSources) -> None:
    site.answers["/cat.jpg"] = [say(503)]
    detail = refusal_of(make_sources(), site.uri("/cat.jpg"), SourceFailed)
    assert detail == "The host 'localhost' answered with status 503."
    assert len(site.asked) == 3


def test_a_pause_does_not_go_past_the_deadline(
    site: Site, make_sources: MakeSources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSES_S", (0.0, 4.0))
    site.answers["/cat.jpg"] = [say(503)]
    detail = refusal_of(make_sources(fetch_timeout_s=3), site.uri("/cat.jpg"), SourceFailed)
    assert detail == "The host 'localhost' answered with status 503.", (
        "it ends at once, and says why"
    )
    assert len(site.asked) == 1


def test_there_is_time_for_every_try() -> None:
    assert sum(module.PAUSES_S) < Settings().fetch_timeout_s / 3


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "], ids=["body", "headers"]
)
def test_a_drip_ends_with_the_deadline(site: Site, make_sources: MakeSources, head: bytes) -> None:
    site.answers["/cat.jpg"] = [lambda handler: site.drip(handler, head)]
    sources = make_sources(fetch_timeout_s=0.5)
    start_s = time.monotonic()
    detail = refusal_of(sources, site.uri("/cat.jpg"), SourceFailed)
    assert time.monotonic() - start_s < 3
    assert detail == "The host 'localhost' did not answer in time."


def test_a_host_that_says_nothing_ends_with_the_deadline(make_sources: MakeSources) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        sources = make_sources(allowed_hosts=[f"localhost:{port}"], fetch_timeout_s=0.3)
        detail = refusal_of(sources, f"https://localhost:{port}/cat.jpg", SourceFailed)
    assert detail == "The host 'localhost' did not answer in time."


def test_a_picture_over_the_limit_is_not_read(site: Site, make_sources: MakeSources) -> None:
    over = b"x" * (MAX_BYTES + 1)
    site.answers["/said.jpg"] = [say(200, b"", Content_Length="1000000000000")]
    site.answers["/unsaid.jpg"] = [say_until_closed(over)]
    site.answers["/endless.jpg"] = [say_until_closed(over * 500)]
    site.answers["/full.jpg"] = [say_until_closed(over[1:]), say(200, over[1:])]
    sources = make_sources()
    for path in ("/said.jpg", "/unsaid.jpg", "/endless.jpg"):
        assert str(MAX_BYTES) in refusal_of(sources, site.uri(path), PayloadTooLarge)
    for _ in range(2):
        assert sources.fetch(site.uri("/full.jpg")) == over[1:]


def test_a_picture_without_bytes_is_refused(site: Site, make_sources: MakeSources) -> None:
    site.answers["/said.jpg"] = [say(200)]
    site.answers["/unsaid.jpg"] = [say_until_closed(b"")]
    for path in ("/said.jpg", "/unsaid.jpg"):
        refusal_of(make_sources(), site.uri(path), EmptyPicture)
