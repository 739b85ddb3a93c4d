"""A client of the HTTP interface, for the commands."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from twinlens.api.schemas import (
    ItemPage,
    JobAnswer,
    JobPage,
    LibraryPlan,
    ModelPage,
    ProblemDetails,
)
from twinlens.cli.addresses import is_loopback
from twinlens.cli.errors import CommandFailed
from twinlens.shared.messages import Image, Library, SearchResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from twinlens.shared.messages import Item, ModelSummary, SearchQuery

# An answer to an upload comes when all of it is on the service's disk.
TIMEOUT = httpx.Timeout(90, connect=5, read=600)
READ_BYTES = 1024 * 1024
MAX_TRIES = 5
MAX_RETRY_AFTER_S = 10

Answer = TypeVar("Answer", bound=BaseModel)


class Client:
    """Asks one service. Every method raises CommandFailed, with the service's own words."""

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        """Names the service.

        Args:
            url: Its address.
            transport: Stands for the network; for tests.
        """
        self.url = url.rstrip("/")
        try:
            host = httpx.URL(self.url).host
        except httpx.InvalidURL as error:
            raise CommandFailed(f"{url} is not a URL: {error}") from None
        self._http = httpx.Client(
            base_url=self.url,
            timeout=TIMEOUT,
            transport=transport,
            # A proxy of the environment is no way to a service on this machine.
            trust_env=not is_loopback(host),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()

    def add_pictures(self, pictures: Sequence[tuple[str, bytes]], library: str) -> JobAnswer:
        """Uploads pictures, as (name, bytes), in one bulk job."""
        files = [("files", (name, content)) for name, content in pictures]
        return self._post(JobAnswer, "/v1/images/bulk", params={"library": library}, files=files)

    def add_archive(
        self, archive: Path, media_type: str, library: str, on_sent: Callable[[int], None]
    ) -> JobAnswer:
        """Streams an archive as one bulk job.

        Args:
            archive: The file.
            media_type: What it is.
            library: Where its pictures go.
            on_sent: Told how many bytes were sent, again and again.
        """
        headers = {
            "Content-Type": media_type,
            "Content-Length": str(archive.stat().st_size),
        }
        return self._post(
            JobAnswer,
            "/v1/images/bulk",
            params={"library": library},
            make_content=lambda: _read(archive, on_sent),
            headers=headers,
        )

    def search(self, query: SearchQuery, picture: bytes | None = None) -> SearchResult:
        """Searches with a picture, or with what the query names, and waits for the result."""
        asked = query.model_dump_json(exclude_none=True)
        wait = {"Prefer": "wait=60"}
        if picture is None:
            headers = {"Content-Type": "application/json", **wait}
            job = self._post(JobAnswer, "/v1/search", content=asked, headers=headers)
        else:
            parts = {"file": ("query", picture), "query": (None, asked)}
            job = self._post(JobAnswer, "/v1/search", files=parts, headers=wait)
        job = self.wait(job)
        if not isinstance(job.result, SearchResult):
            raise CommandFailed(f"the search {job.status}: {_reason(job)}")
        return job.result

    def job(self, job_id: str, wait_s: int = 0) -> JobAnswer:
        """Reads a job, once it has ended or some seconds have passed."""
        headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
        return self._get(JobAnswer, f"/v1/jobs/{job_id}", headers=headers)

    def wait(self, job: JobAnswer) -> JobAnswer:
        """Waits until a job has ended."""
        while job.finished_at is None:
            job = self.job(job.id, wait_s=30)
        return job

    def failed_items(self, job_id: str, limit: int) -> list[Item]:
        """Reads the first failed pictures of a job."""
        found: list[Item] = []
        cursor: str | None = None
        while True:
            params = {"outcome": "failed", "limit": str(limit - len(found))}
            page = self._get(
                ItemPage,
                f"/v1/jobs/{job_id}/items",
                params={**params, **({"cursor": cursor} if cursor else {})},
            )
            found += page.items
            cursor = page.next_cursor
            if cursor is None or len(found) >= limit:
                return found

    def jobs(self, limit: int) -> list[JobAnswer]:
        """Reads the newest jobs."""
        return self._get(JobPage, "/v1/jobs", params={"limit": str(limit)}).items

    def models(self) -> list[ModelSummary]:
        """Reads the models that are served."""
        return self._get(ModelPage, "/v1/models", params={"limit": "1000"}).items

    def put_library(self, name: str, plan: LibraryPlan) -> Library:
        """Creates a library, or changes its weights."""
        headers = {"Content-Type": "application/json"}
        path, content = f"/v1/libraries/{name}", plan.model_dump_json()
        return self._read_answer(Library, self._send("PUT", path, content=content, headers=headers))

    def image(self, image_id: str, library: str) -> Image:
        """Reads an image's record."""
        return self._get(Image, f"/v1/images/{image_id}", params={"library": library})

    def thumbnail(self, image_id: str, library: str) -> bytes:
        """Reads an image's thumbnail."""
        path = f"/v1/images/{image_id}/thumbnail"
        return self._send("GET", path, params={"library": library}).content

    def _get(self, kind: type[Answer], path: str, **request: Any) -> Answer:
        return self._read_answer(kind, self._send("GET", path, **request))

    def _post(self, kind: type[Answer], path: str, **request: Any) -> Answer:
        return self._read_answer(kind, self._send("POST", path, **request))

    def _send(
        self,
        method: str,
        path: str,
        make_content: Callable[[], Iterable[bytes]] | None = None,
        **request: Any,
    ) -> httpx.Response:
        """Sends a request, again where the service says that it may come later."""
        for n_tries in range(1, MAX_TRIES + 1):
            if make_content is not None:
                request["content"] = make_content()
            try:
                response = self._http.request(method, path, **request)
            except httpx.ConnectError:
                raise CommandFailed(
                    f"nothing answers at {self.url}; start it with `twinlens up`, or name another"
                    " service with --url"
                ) from None
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                reason = str(error) or type(error).__name__
                raise CommandFailed(f"{self.url} does not answer as it should: {reason}") from None
            retry_after = response.headers.get("Retry-After", "")
            if response.is_success or n_tries == MAX_TRIES or not retry_after.isdigit():
                break
            time.sleep(min(int(retry_after), MAX_RETRY_AFTER_S))
        if not response.is_success:
            raise _problem_of(response)
        return response

    def _read_answer(self, kind: type[Answer], response: httpx.Response) -> Answer:
        try:
            return kind.model_validate_json(response.content)
        except ValidationError:
            raise CommandFailed(f"{self.url} is no Twinlens, or one of another version") from None


def _read(archive: Path, on_sent: Callable[[int], None]) -> Iterator[bytes]:
    with archive.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            yield chunk
            on_sent(len(chunk))


def _problem_of(response: httpx.Response) -> CommandFailed:
    try:
        problem = ProblemDetails.model_validate_json(response.content)
    except ValidationError:
        return CommandFailed(f"{response.url} answered {response.status_code}")
    fields = "".join(f" {field.location}: {field.message}" for field in problem.errors)
    return CommandFailed(f"{problem.detail}{fields} (request {problem.request_id})")


def _reason(job: JobAnswer) -> str:
    return job.error.detail if job.error else "no reason is known"
