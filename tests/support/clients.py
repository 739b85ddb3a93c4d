"""A client of the running service, and what tests say to it again and again."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import httpx

WAIT = {"Prefer": "wait=60"}


class Client:
    """Posts, waits, searches; every answer is checked to be one of success."""

    def __init__(self, url: str, key: str = "") -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(base_url=url, timeout=90, headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def get(self, path: str, **params: Any) -> Any:
        return self.http.get(path, params=params).raise_for_status().json()

    def index(self, photos: Iterable[Path], *, library: str = "default", wait: bool = True) -> Any:
        """Posts files as one bulk job, and waits until it has ended."""
        files = [("files", (path.name, path.read_bytes())) for path in photos]
        answer = self.http.post("/v1/images/bulk", params={"library": library}, files=files)
        job = answer.raise_for_status().json()
        return self.ended(job) if wait else job

    def index_zip(self, entries: dict[str, bytes]) -> Any:
        """Posts a zip archive as one bulk job, and waits until it has ended."""
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as writer:
            for name, content in entries.items():
                writer.writestr(name, content)
        headers = {"Content-Type": "application/zip"}
        answer = self.http.post("/v1/images/bulk", content=archive.getvalue(), headers=headers)
        return self.ended(answer.raise_for_status().json())

    def add(self, name: str, content: bytes) -> Any:
        """Posts one picture, and waits until its job has ended."""
        files = {"file": (name, content)}
        return self.ended(self.http.post("/v1/images", files=files, headers=WAIT).json())

    def ended(self, job: Any) -> Any:
        while job["finished_at"] is None:
            job = self.http.get(job["links"]["self"], headers=WAIT).raise_for_status().json()
        return job

    def items(self, job: Any, **params: Any) -> list[Any]:
        items: list[Any] = []
        cursor: dict[str, Any] = {}
        while True:
            page = self.get(job["links"]["items"], limit=100, **params, **cursor)
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            cursor = {"cursor": page["next_cursor"]}

    def search(self, content: bytes, query: str = "{}") -> Any:
        asked = (None, query, "application/json")
        files: dict[str, Any] = {"file": ("query.jpg", content), "query": asked}
        answer = self.http.post("/v1/search", files=files, headers=WAIT)
        return answer.raise_for_status().json()
