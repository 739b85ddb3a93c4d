"""A client as it should be: it asks again, in the same words, until it is answered."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

# What the service promises is 30 s after a death; in a round, deaths follow each other.
PATIENCE_S = 90.0
PAUSE_S = 0.2
TIMEOUT = httpx.Timeout(30, connect=5)
AWAY = {502, 503, 504}


class NotAnswered(AssertionError):
    """The service gave no answer in time, or one that it must not give."""


class GoodClient:
    """Asks one service, whose address may change hands but not place."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def ask(
        self, method: str, path: str, expected: set[int], **request: Any
    ) -> tuple[httpx.Response, bool]:
        """Asks until there is an answer other than that the service is away.

        Returns:
            The answer, and whether it was asked for more than once.

        Raises:
            NotAnswered: There was none in time, or it is not among the expected.
        """
        deadline, told, is_repeated = time.monotonic() + PATIENCE_S, "", False
        while time.monotonic() < deadline:
            try:
                answer = self._http.request(method, path, **request)
            except httpx.TransportError as error:
                told = repr(error)
            else:
                if answer.status_code in expected:
                    return answer, is_repeated
                told = f"{answer.status_code} {answer.text[:500]}"
                if not _may_come_later(answer):
                    break
            is_repeated = True
            time.sleep(PAUSE_S)
        raise NotAnswered(f"{method} {path}: {told}")

    def break_off(self, path: str, body: bytes, headers: dict[str, str], n_bytes: int) -> None:
        """Sends only the first bytes of a body, and hangs up."""
        whole = {**headers, "Content-Length": str(len(body))}

        def pieces() -> Iterator[bytes]:
            yield body[:n_bytes]
            raise _HungUp

        with contextlib.suppress(_HungUp, httpx.TransportError):
            self._http.post(path, content=pieces(), headers=whole)

    def ended(self, job_id: str) -> dict[str, Any]:
        """Waits for a job.

        Raises:
            NotAnswered: It does not end.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer, _ = self.ask("GET", f"/v1/jobs/{job_id}", {200}, headers={"Prefer": "wait=2"})
            job: dict[str, Any] = answer.json()
            if job["finished_at"] is not None:
                return job
            if time.monotonic() > deadline:
                raise NotAnswered(f"job {job_id} does not end: {job}")

    def items(self, job_id: str) -> list[dict[str, Any]]:
        answer, _ = self.ask("GET", f"/v1/jobs/{job_id}/items?limit=1000", {200})
        items: list[dict[str, Any]] = answer.json()["items"]
        return items


class _HungUp(Exception):
    pass


def _may_come_later(answer: httpx.Response) -> bool:
    is_arriving = answer.status_code == 409 and "upload-in-progress" in answer.text
    return answer.status_code in AWAY or is_arriving
