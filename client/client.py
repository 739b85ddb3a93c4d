"""A client of the HTTP interface, for the commands."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from twinlens.client.answering import key_headers, no_answer, problem_of, read_host, stranger
from twinlens.client.errors import RequestFailed, UploadRefused
from twinlens.client.patience import Patience, may_come_later
from twinlens.shared.answers import (
    Deletion,
    ImageCount,
    ImagePage,
    ImageVectors,
    ItemPage,
    JobAnswer,
    JobPage,
    LibraryAnswer,
    LibraryPage,
    LibraryPlan,
    MissingImages,
    MissingQuery,
    ModelPage,
    Stats,
)
from twinlens.shared.files import open_regular
from twinlens.shared.loopback import is_loopback
from twinlens.shared.messages import Image
from twinlens.shared.queries import Comparison, Duplicates, SearchResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from twinlens.shared.answers import ReconcileQuery
    from twinlens.shared.messages import Description, Item, Metadata, ModelSummary
    from twinlens.shared.queries import CompareQuery, DuplicatesQuery, SearchQuery

# An answer to an upload comes when all of it is on the service's disk.
TIMEOUT = httpx.Timeout(90, connect=5, read=600)
READ_BYTES = 1024 * 1024
WAIT = {"Prefer": "wait=60"}

# What a network does while a service is started again.
_AWAY = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError)

Answer = TypeVar("Answer", bound=BaseModel)

# A part of a form: its field, then a file's name and bytes, and its media type where it has one.
_Part = tuple[str, tuple[str | None, str | bytes] | tuple[str | None, str | bytes, str]]


class _Request(TypedDict, total=False):
    """What httpx is given of a request, beside its method and path."""

    params: Mapping[str, str]
    headers: Mapping[str, str] | None
    content: str | Iterable[bytes]
    files: Sequence[_Part]


class _Repeatable(_Request, total=False):
    """A request whose content is made anew for each try."""

    make_content: Callable[[], Iterable[bytes]]


class Upload(NamedTuple):
    """A picture to be uploaded: its file name, its bytes and its metadata, if any are given."""

    name: str
    content: bytes
    metadata: Metadata | None = None  # what is not given stays as it is


class Client:
    """Asks one service. Every method may raise RequestFailed, with the service's own words."""

    def __init__(
        self,
        url: str,
        transport: httpx.BaseTransport | None = None,
        outage_s: float = 0,
        key: str | None = None,
    ) -> None:
        """Names the service.

        Args:
            url: Its address.
            transport: Replaces the network, for tests.
            outage_s: How long a service that has answered before may be away.
            key: Sent with each request, and nowhere else: no redirect is followed. By default what
                TWINLENS_KEY of the environment says, if anything.

        Raises:
            RequestFailed: It is no address, the key is none, or the environment names no way to it
                that works.
        """
        self._outage_s = outage_s
        self._has_answered = False
        self._open_jobs: dict[str, JobAnswer] = {}
        self.url = url.rstrip("/")
        host = read_host(url)
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers=key_headers(os.environ.get("TWINLENS_KEY", "") if key is None else key),
                timeout=TIMEOUT,
                transport=transport,
                # A proxy of the environment is no way to a service on this machine.
                trust_env=not is_loopback(host),
            )
        except (OSError, ValueError, httpx.InvalidURL, ImportError) as error:
            raise RequestFailed(
                "proxies or certificates that the environment names (http_proxy, https_proxy,"
                f" all_proxy, SSL_CERT_FILE, SSL_CERT_DIR) cannot be used: {error}"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()
        if isinstance(error, KeyboardInterrupt):
            for job in self.open_jobs:
                error.add_note(f"job {job.id} goes on: `twinlens jobs {job.id}` shows it")

    @property
    def open_jobs(self) -> list[JobAnswer]:
        """The jobs that the service accepted of us, and that have not ended as far as we know."""
        return list(self._open_jobs.values())

    def missing(
        self, ids: Sequence[str], library: str, described: Mapping[str, Description] | None = None
    ) -> MissingImages:
        """Asks which pictures are worth an upload; at most 1000.

        Args:
            ids: Image ids.
            library: Where they are to be.
            described: The names and metadata that some are to have.
        """
        asked = MissingQuery(ids=list(ids), described=dict(described or {}))
        content = asked.model_dump_json(exclude_none=True)
        headers = {"Content-Type": "application/json"}
        path, params = "/v1/images/missing", {"library": library}
        return self._post(MissingImages, path, params=params, content=content, headers=headers)

    def add_pictures(self, pictures: Iterable[Upload], library: str) -> JobAnswer:
        """Uploads pictures in one bulk job, each with its metadata before it."""
        parts: list[_Part] = []
        for name, content, metadata in pictures:
            if metadata is not None:
                parts.append(("metadata", (None, json.dumps(metadata), "application/json")))
            parts.append(("files", (name, content)))
        return self._add_many(library, files=parts)

    def add_archive(
        self, archive: Path, media_type: str, library: str, on_sent: Callable[[int], None]
    ) -> JobAnswer:
        """Streams an archive or a listing as one bulk job.

        Args:
            archive: The file.
            media_type: What it is.
            library: Where its pictures go.
            on_sent: Called with the number of bytes that were just sent.

        Raises:
            UploadRefused: The service refuses the archive, or it cannot be read.
        """
        try:
            n_bytes = archive.stat().st_size
        except OSError as error:
            raise UploadRefused(f"it cannot be read: {error.strerror}") from None
        headers = {"Content-Type": media_type, "Content-Length": str(n_bytes)}
        make_content = partial(_read, archive, on_sent)
        return self._add_many(library, make_content=make_content, headers=headers)

    def search(
        self, query: SearchQuery, pictures: Sequence[bytes] = (), unlike: Sequence[bytes] = ()
    ) -> SearchResult:
        """Searches, and waits for the result.

        Args:
            query: What is asked.
            pictures: Examples of the same thing, in addition to those that the query names.
            unlike: Examples of what to avoid.
        """
        files = [("file", one) for one in pictures] + [("negative", one) for one in unlike]
        job = self._ask(JobAnswer, "/v1/search", query, files, WAIT)
        return self._result_of(job, SearchResult, "search")

    def compare(self, query: CompareQuery, pictures: Sequence[bytes] = ()) -> Comparison:
        """Compares two pictures: stored ones that the query names, and the given ones."""
        return self._ask(Comparison, "/v1/compare", query, [("file", one) for one in pictures])

    def find_duplicates(self, query: DuplicatesQuery) -> Duplicates:
        """Groups a library's near-duplicates, and waits for the result."""
        job = self._ask(JobAnswer, "/v1/duplicates", query, headers=WAIT)
        return self._result_of(job, Duplicates, "search for duplicates")

    def job(self, job_id: str, wait_s: int = 0) -> JobAnswer:
        """Reads a job, once it has ended or some seconds have passed."""
        headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
        return self._get(JobAnswer, f"/v1/jobs/{job_id}", headers=headers)

    def wait(self, job: JobAnswer) -> JobAnswer:
        """Waits until a job has ended."""
        while job.finished_at is None:
            job = self.job(job.id, wait_s=30)
        return job

    def cancel(self, job_id: str) -> JobAnswer:
        """Cancels a job: what of it has not begun never begins."""
        return self._post(JobAnswer, f"/v1/jobs/{job_id}/cancel")

    def retry(self, job_id: str) -> JobAnswer:
        """Queues the failed pictures of a job again, as a new job, and returns that."""
        return self._post(JobAnswer, f"/v1/jobs/{job_id}/retry")

    def failed_items(self, job_id: str, limit: int) -> list[Item]:
        """Reads the first failed pictures of a job."""
        items: list[Item] = []
        cursor: str | None = None
        while True:
            params = {"outcome": "failed", "limit": str(limit - len(items))}
            page = self._get(
                ItemPage,
                f"/v1/jobs/{job_id}/items",
                params={**params, **({"cursor": cursor} if cursor else {})},
            )
            items += page.items
            cursor = page.next_cursor
            if cursor is None or len(items) >= limit:
                return items

    def jobs(self, limit: int) -> list[JobAnswer]:
        """Reads the newest jobs."""
        return self._get(JobPage, "/v1/jobs", params={"limit": str(limit)}).items

    def stats(self) -> Stats:
        """Reads the workers and what is waiting."""
        return self._get(Stats, "/v1/stats")

    def models(self) -> list[ModelSummary]:
        """Reads the models that are served."""
        return self._get(ModelPage, "/v1/models", params={"limit": "1000"}).items

    def libraries(self) -> list[LibraryAnswer]:
        """Reads all libraries."""
        items: list[LibraryAnswer] = []
        params = {"limit": "1000"}
        while True:
            page = self._get(LibraryPage, "/v1/libraries", params=params)
            items += page.items
            if page.next_cursor is None:
                return items
            params = {**params, "cursor": page.next_cursor}

    def library(self, name: str) -> LibraryAnswer:
        """Reads one library."""
        return self._get(LibraryAnswer, _library_path(name))

    def put_library(self, name: str, plan: LibraryPlan) -> LibraryAnswer | JobAnswer:
        """Creates a library, or changes it.

        Returns:
            The library, or the job that embeds its pictures; the plan holds when that has ended.
        """
        headers, content = {"Content-Type": "application/json"}, plan.model_dump_json()
        response = self._send("PUT", _library_path(name), content=content, headers=headers)
        # Whatever its status: a job may have ended already.
        if "Location" in response.headers:
            return self._read_answer(JobAnswer, response)
        return self._read_answer(LibraryAnswer, response)

    def roll_back(self, name: str) -> LibraryAnswer:
        """Cancels the change of a library that is under way, or else undoes the last one."""
        return self._post(LibraryAnswer, f"{_library_path(name)}/rollback")

    def remove_library(self, name: str) -> JobAnswer:
        """Removes a library: it is gone at once, and its pictures when the job has ended."""
        return self._read_answer(JobAnswer, self._send("DELETE", _library_path(name)))

    def images(
        self,
        library: str,
        limit: int,
        cursor: str | None = None,
        where: str | None = None,
        sort: str | None = None,
    ) -> ImagePage:
        """Reads a page of a library's images.

        Args:
            library: Where they are.
            limit: How many at most. With a filter there may be fewer, and more to come.
            cursor: Where to go on; without one, the first page.
            where: A filter.
            sort: `-added_at`, the newest first, as without it, or `added_at`.
        """
        params = {"library": library, "limit": str(limit)}
        params |= {"sort": sort} if sort else {}
        params |= {"cursor": cursor} if cursor else {}
        params |= {"filter": where} if where is not None else {}
        return self._get(ImagePage, "/v1/images", params=params)

    def count_images(self, library: str, where: str | None = None) -> int:
        """Counts a library's images, or those that a filter is true of."""
        params = {"library": library} | ({"filter": where} if where is not None else {})
        return self._get(ImageCount, "/v1/images/count", params=params).count

    def remove_image(self, image_id: str, library: str) -> JobAnswer:
        """Removes an image: it is gone when the job has ended."""
        path, params = f"/v1/images/{image_id}", {"library": library}
        return self._read_answer(JobAnswer, self._send("DELETE", path, params=params))

    def remove_images(self, library: str, wanted: Deletion) -> JobAnswer:
        """Removes many images: they are gone when the job has ended."""
        params, headers = {"library": library}, {"Content-Type": "application/json"}
        content = wanted.model_dump_json(exclude_unset=True)
        path = "/v1/images/delete"
        return self._post(JobAnswer, path, params=params, content=content, headers=headers)

    def image(self, image_id: str, library: str) -> Image:
        """Reads an image's record."""
        return self._get(Image, f"/v1/images/{image_id}", params={"library": library})

    def vectors(self, image_id: str, library: str) -> ImageVectors:
        """Reads what each model makes of an image."""
        path = f"/v1/images/{image_id}/vectors"
        return self._get(ImageVectors, path, params={"library": library})

    def thumbnail(self, image_id: str, library: str) -> bytes:
        """Reads an image's thumbnail."""
        path = f"/v1/images/{image_id}/thumbnail"
        return self._send("GET", path, params={"library": library}).content

    def reconcile(self, asked: ReconcileQuery) -> list[JobAnswer]:
        """Has libraries' stores compared: a job for each library."""
        return self._ask(JobPage, "/v1/reconcile", asked).items

    def _add_many(self, library: str, **request: Unpack[_Repeatable]) -> JobAnswer:
        """Posts a bulk job.

        Without an idempotency key: after a broken connection the service keeps one busy for
        minutes. A second job of the same pictures skips what the first has done.
        """
        request["params"] = {"library": library}
        return self._post(JobAnswer, "/v1/images/bulk", **request)

    def _ask(
        self,
        kind: type[Answer],
        path: str,
        query: BaseModel,
        files: Sequence[tuple[str, bytes]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Posts a query: as JSON, or, where there are pictures, in a form with them."""
        asked = query.model_dump_json(exclude_none=True)
        if not files:
            content_type = {"Content-Type": "application/json"}
            return self._post(kind, path, content=asked, headers=content_type | dict(headers or {}))
        parts: list[_Part] = [(part, ("query", content)) for part, content in files]
        return self._post(kind, path, files=[*parts, ("query", (None, asked))], headers=headers)

    def _result_of(self, job: JobAnswer, kind: type[Answer], what: str) -> Answer:
        job = self.wait(job)
        if not isinstance(job.result, kind):
            raise RequestFailed(f"the {what} {job.status}: {_reason(job)}")
        return job.result

    def _get(self, kind: type[Answer], path: str, **request: Unpack[_Repeatable]) -> Answer:
        return self._read_answer(kind, self._send("GET", path, **request))

    def _post(self, kind: type[Answer], path: str, **request: Unpack[_Repeatable]) -> Answer:
        return self._read_answer(kind, self._send("POST", path, **request))

    def _send(
        self,
        method: str,
        path: str,
        make_content: Callable[[], Iterable[bytes]] | None = None,
        **request: Unpack[_Request],
    ) -> httpx.Response:
        """Sends a request, again while the service is away or says that it may come later."""
        patience = Patience(self._outage_s)
        while True:
            if make_content is not None:
                request["content"] = make_content()
            try:
                response = self._http.request(method, path, **request)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                # Who never answered is not away, but is not there.
                may_be_back = self._has_answered and self._outage_s > 0
                if not (may_be_back and isinstance(error, _AWAY) and patience.wait()):
                    raise no_answer(self.url, error) from None
                continue
            self._has_answered = True
            if response.is_success:
                return response
            retry_after = response.headers.get("Retry-After", "")
            if not may_come_later(response) or not patience.wait(retry_after):
                raise problem_of(response)

    def _read_answer(self, kind: type[Answer], response: httpx.Response) -> Answer:
        try:
            answer = kind.model_validate_json(response.content)
        except ValidationError:
            raise stranger(response) from None
        if isinstance(answer, JobAnswer):
            self._open_jobs[answer.id] = answer
            if answer.finished_at is not None:
                self._open_jobs.pop(answer.id)
        return answer


def _library_path(name: str) -> str:
    # A name that has a `/` or `?` in it must not become the path of something else.
    return f"/v1/libraries/{quote(name, safe='')}"


def _read(archive: Path, on_sent: Callable[[int], None]) -> Iterator[bytes]:
    try:
        with open_regular(archive) as file:
            while chunk := file.read(READ_BYTES):
                yield chunk
                on_sent(len(chunk))
    except OSError as error:
        raise UploadRefused(f"it cannot be read: {error.strerror}") from None


def _reason(job: JobAnswer) -> str:
    return job.error.detail if job.error else "no reason is known"
