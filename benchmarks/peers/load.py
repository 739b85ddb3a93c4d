"""Requests by several clients at once, each on a connection of its own, as many as were planned."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Target:
    """Where JPEGs are posted, and how to see that an answer has what was asked for."""

    url: str
    is_right: Callable[[bytes], bool]
    headers: dict[str, str] = field(default_factory=dict)


class Load(NamedTuple):
    """What one run took: all of it, and each request."""

    whole_s: float
    requests_ms: list[float]


def post_all(target: Target, contents: Sequence[bytes], n_clients: int) -> Load:
    """Posts every picture once; a client takes the next one when it has its answer."""
    waiting = iter(contents)
    started = time.perf_counter()
    with ThreadPoolExecutor(n_clients) as clients:
        jobs = [clients.submit(_post_some, target, waiting) for _ in range(n_clients)]
        requests_ms = [ms for job in jobs for ms in job.result()]
    return Load(time.perf_counter() - started, requests_ms)


def _post_some(target: Target, waiting: Iterator[bytes]) -> list[float]:
    parts = urlsplit(target.url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    headers = {"Content-Type": "image/jpeg", **target.headers}
    taken_ms = []
    for content in waiting:
        started = time.perf_counter()
        connection.request("POST", path, content, headers)
        answer = connection.getresponse()
        body = answer.read()
        taken_ms.append((time.perf_counter() - started) * 1000)
        if answer.status != http.client.OK or not target.is_right(body):
            raise SystemExit(f"{target.url} answered {answer.status}: {body[:300]!r}")
    connection.close()
    return taken_ms
