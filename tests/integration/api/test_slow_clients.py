"""Clients that stand still, in a real server: what the others get meanwhile."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
from support.servers import running_api, wait_until
from support.stand_in import StandIn

from twinlens.cli.service.http_worker import MAX_HEAD_BYTES, N_THREADS, QUEUE_S
from twinlens.cli.service.serve import MAX_CONNECTIONS
from twinlens.shared.redis.client import connect as connect_redis
from twinlens.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Of each kind: more than would be served at a time if each held a thread of a few.
N_SLOW = 40
# Within seconds; a request that waits for a client that stands still waits for longer.
DEADLINE_S = 8.0


@pytest.fixture(scope="module")
def api(redis_url: str, lite_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("api")
    settings = Settings(redis_url=redis_url, milvus_uri=lite_uri, data_dir=folder)
    with connect_redis(redis_url) as redis:
        redis.flushall()
        StandIn(redis).serve("phash")
    with running_api(settings, folder) as url:
        yield url


@pytest.fixture
def connect(api: str) -> Iterator[Callable[[bytes], socket.socket]]:
    """Returns what opens a connection with a small window and sends some bytes."""
    with contextlib.ExitStack() as sockets:
        parts = urlsplit(api)

        def open_one(sent: bytes) -> socket.socket:
            one = sockets.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect((parts.hostname, parts.port))
            one.sendall(sent)
            return one

        yield open_one


def post_one(api: str) -> Any:
    headers = {"Content-Type": "image/png"}
    return httpx.post(f"{api}/v1/images", content=b"x", headers=headers, trust_env=False).json()


def stand_still_before_heads(api: str, connect: Any) -> None:
    for _ in range(N_SLOW):
        connect(b"")


def stand_still_in_heads(api: str, connect: Any) -> None:
    for _ in range(N_SLOW):
        connect(b"GET /livez HTTP/1.1\r\nHost: 127")


def stand_still_in_second_heads(api: str, connect: Any) -> None:
    for _ in range(N_SLOW):
        connect(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /livez HTTP/1.1\r\nHo")


def stand_still_in_bodies(api: str, connect: Any) -> None:
    for _ in range(N_SLOW):
        connect(
            b"POST /v1/images HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
            b"Content-Length: 9000\r\n\r\nbegun"
        )


def stand_still_in_bodies_of_health(api: str, connect: Any) -> None:
    for _ in range(N_SLOW):
        connect(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000\r\n\r\nbegun")


def read_no_answers(api: str, connect: Any) -> None:
    asked = b"GET /docs/static/js/swagger-ui-bundle.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    for _ in range(N_SLOW):
        connect(asked * 8)


def read_no_health(api: str, connect: Any) -> None:
    for _ in range(N_SLOW):
        connect(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 1000)


def vanish_while_waiting(api: str, connect: Any) -> None:
    job = post_one(api)
    path = job["links"]["self"].encode()
    asked = b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nPrefer: wait=60\r\n\r\n"
    for _ in range(N_SLOW):
        connect(asked).close()


def vanish_while_following(api: str, connect: Any) -> None:
    job = post_one(api)
    path = job["links"]["events"].encode()
    for _ in range(N_SLOW):
        connect(b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").close()


KINDS = [
    stand_still_before_heads,
    stand_still_in_heads,
    stand_still_in_second_heads,
    stand_still_in_bodies,
    stand_still_in_bodies_of_health,
    read_no_answers,
    read_no_health,
    vanish_while_waiting,
    vanish_while_following,
]


def assert_others_are_served(api: str) -> None:
    with httpx.Client(base_url=api, timeout=DEADLINE_S, trust_env=False) as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 503  # there is no worker
        png = {"Content-Type": "image/png"}
        uploaded = client.post("/v1/images", content=b"picture", headers=png)
        assert uploaded.status_code == 202
        searched = client.post("/v1/search", files={"file": b"picture"})
        assert searched.status_code == 202
        # Whoever wants to wait finds a place as well, once those that are gone have been missed.
        wait_until(lambda: _waited(client, uploaded.json()["id"]) == 200, DEADLINE_S)
        wait_until(lambda: _followed(client, uploaded.json()["id"]) == 200, DEADLINE_S)


def _waited(client: httpx.Client, job_id: str) -> int:
    return client.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=1"}).status_code


def _followed(client: httpx.Client, job_id: str) -> int:
    with client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        return answer.status_code


@pytest.mark.parametrize("stand_still", KINDS, ids=lambda kind: kind.__name__)
def test_others_are_served_while_many_clients(api: str, connect: Any, stand_still: Any) -> None:
    stand_still(api, connect)
    assert_others_are_served(api)


def test_others_are_served_while_many_clients_do_all_of_it(api: str, connect: Any) -> None:
    for stand_still in KINDS:
        stand_still(api, connect)
    assert_others_are_served(api)


def test_who_finds_no_thread_is_told_and_all_others_are_served(api: str, connect: Any) -> None:
    for _ in range(-(-(N_THREADS["body"] + 5) // N_SLOW)):
        stand_still_in_bodies(api, connect)
    with httpx.Client(base_url=api, timeout=DEADLINE_S + QUEUE_S, trust_env=False) as client:
        png = {"Content-Type": "image/png"}
        refused = client.post("/v1/images", content=b"picture", headers=png)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert refused.json()["type"] == "urn:twinlens:problem:queue-full"
        assert client.get("/livez").status_code == 200
        assert client.get("/v1/jobs").status_code == 200


def test_more_connections_than_there_may_be_keep_nobody_out(api: str, connect: Any) -> None:
    for _ in range(-(-(MAX_CONNECTIONS + 5) // N_SLOW)):
        stand_still_in_heads(api, connect)
    assert_others_are_served(api)


def answer_of(one: socket.socket) -> bytes:
    """Reads until the server closes."""
    one.settimeout(60)
    return b"".join(iter(lambda: one.recv(65536), b""))


def test_who_stands_still_is_told_and_sent_away(api: str, connect: Any) -> None:
    head = b"POST /v1/images HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
    unsent = connect(b"GET /livez HTTP/1.1\r\nHost: 127")
    sized = connect(head + b"Content-Length: 9000\r\n\r\nbegun")
    chunked = connect(head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n")
    listing = connect(
        b"POST /v1/images/bulk HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    )
    assert answer_of(unsent) == b""
    for one in (sized, chunked, listing):
        answer = answer_of(one)
        assert answer.startswith(b"HTTP/1.1 408 "), answer
        assert b"upload-stalled" in answer


def test_who_sends_in_pieces_is_served(api: str, connect: Any) -> None:
    one = connect(b"POST /v1/images HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n")
    for piece in (b"Content-Length: 9\r\n", b"\r\n", b"first", b"las"):
        one.sendall(piece)
    one.sendall(b"t")
    one.settimeout(60)
    assert one.recv(12) == b"HTTP/1.1 202"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"x" * MAX_HEAD_BYTES, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD_BYTES, 431),
        (b"GET /livez HTTP/9.x\r\n\r\n", 400),
    ],
    ids=["line", "fields", "version"],
)
def test_a_head_that_cannot_be_read_is_answered_with_a_problem(
    connect: Any, sent: bytes, status: int
) -> None:
    head, _, body = answer_of(connect(sent)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(body)["status"] == status


def test_a_head_that_comes_in_pieces_and_many_requests_at_once(api: str, connect: Any) -> None:
    one = connect(b"")
    asked = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 3
    asked += b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    for byte in asked:
        one.sendall(bytes([byte]))
    assert answer_of(one).count(b"HTTP/1.1 200 OK") == 4


def test_a_body_is_asked_for(api: str, connect: Any) -> None:
    one = connect(
        b"POST /v1/images HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
        b"Connection: close\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
    )
    one.settimeout(60)
    asked = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert one.recv(len(asked)) == asked
    one.sendall(b"x")
    assert answer_of(one).startswith(b"HTTP/1.1 202")
