"""A connection whose client is slow, on real sockets."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from twinlens.cli.service.http_worker import kind_of
from twinlens.cli.service.paced_socket import LEAST_BYTES_PER_S, PacedSocket

if TYPE_CHECKING:
    from collections.abc import Iterator

Pair = tuple[PacedSocket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, client = socket.socketpair()
    with PacedSocket(ours) as paced, client:
        yield paced, client


def test_what_is_there_comes_and_who_stands_still_is_not_waited_for(pair: Pair) -> None:
    paced, client = pair
    paced.grant(0.1)
    client.sendall(b"x" * 10)
    assert paced.recv(100) == b"x" * 10
    for _ in range(2):
        with pytest.raises(TimeoutError):
            paced.recv(100)
    # No time is left to receive, and all of it to answer.
    paced.sendall(b"told")
    assert client.recv(10) == b"told"
    paced.grant(0.1)
    client.sendall(b"y")
    assert paced.recv(100) == b"y"


def test_no_more_patience_is_earned_than_there_was(pair: Pair) -> None:
    paced, client = pair
    paced.grant(0.1)
    for _ in range(10):
        client.sendall(b"x" * 10 * LEAST_BYTES_PER_S)
        assert len(paced.recv(10 * LEAST_BYTES_PER_S)) == 10 * LEAST_BYTES_PER_S
    with pytest.raises(TimeoutError):
        paced.recv(1)


def test_who_does_not_read_is_as_good_as_gone(pair: Pair) -> None:
    paced, _ = pair
    paced.grant(0.1)
    with pytest.raises(BrokenPipeError):
        paced.sendall(b"x" * 100_000_000)


def test_what_does_not_wait_is_left_alone(pair: Pair) -> None:
    paced, _ = pair
    paced.setblocking(False)
    with pytest.raises(BlockingIOError):
        paced.recv(1)
    assert paced.gettimeout() == 0


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", "health"),
        (b"HEAD /readyz?x HTTP/1.1\r\n\r\n", "health"),
        (b"GET /livez HTTP/1.1\r\n\r\nGET /livez HTTP/1.1\r\n\r\n", "plain"),
        (b"GET /livez HTTP/1.1\r\nContent-Length: 1\r\n\r\n", "body"),
        (b"GET /livez HTTP/1.1\r\ntransfer-encoding:chunked\r\n\r\n", "body"),
        (b"GET /livezy HTTP/1.1\r\n\r\n", "plain"),
        (b"GET /v1/jobs HTTP/1.1\r\n\r\nContent-Length: 1\r\n", "plain"),
        (b"POST /v1/images HTTP/1.1\r\nHost: a\r\nCONTENT-LENGTH: 1\r\n\r\n", "body"),
    ],
)
def test_which_threads_serve_a_request(head: bytes, kind: str) -> None:
    assert kind_of(head) == kind
