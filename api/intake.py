"""Accepting work. Once a request is answered with 202, no crash loses its pictures or its job.

entries ─▶ blobs + manifest (synced) ─▶ job record ─▶ tasks ─▶ 202
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from redis import RedisError

from twinlens.api.gateway import Claim, Gateway, TaskMessage
from twinlens.shared.blobs import image_id_of, image_key, manifest_key
from twinlens.shared.errors import ValidationFailed
from twinlens.shared.jobs import SEARCH_TTL_S, Job, JobKind
from twinlens.shared.log import request_id
from twinlens.shared.messages import ManifestHead, ManifestItem, SearchQuery, now
from twinlens.shared.queue import DELETE_IMAGE, EMBED_CHUNK, SEARCH, chunk_task_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from twinlens.api.uploads import Entry
    from twinlens.shared.blobs import BlobBatch

QUEUE_OF_KIND: dict[JobKind, str] = {
    "embed": "single",
    "bulk": "bulk",
    "delete": "single",
    "search": "search",
}


@dataclass(frozen=True)
class Accepted:
    """The job that stands for a request."""

    job: Job
    is_new: bool


def accept_upload(
    gateway: Gateway,
    kind: Literal["embed", "bulk"],
    library: str,
    entries: Iterable[Entry],
    key: str | None,
) -> Accepted:
    """Stores an upload and queues its embedding.

    Args:
        gateway: Where to.
        kind: `embed` for one picture.
        library: Its name; it is there.
        entries: The pictures, as they arrive.
        key: The caller's idempotency key, scoped.

    Raises:
        ValidationFailed: There are no entries.
    """
    job = _new_job(gateway, kind, library)
    manifest = _Manifest(gateway, job, kind)
    try:
        manifest.write(entries)
        job.n_chunks, job.total = manifest.n_chunks, manifest.n_items
        claim = None if key is None else Claim(key, manifest.fingerprint)
        accepted = _submit(gateway, job, _chunk_tasks(job), claim)
    except RedisError:
        # The record may have stayed, and with it the job: the sweeper queues it again.
        raise
    except Exception:
        manifest.remove()
        raise
    if not accepted.is_new:
        manifest.remove()
    return accepted


def accept_search(
    gateway: Gateway, query: SearchQuery, picture: bytes | None, key: str | None
) -> Accepted:
    """Queues a search with a picture, or with the stored image that the query names."""
    job = _new_job(gateway, "search", query.library)
    claim = None if key is None else Claim(key, _fingerprint_of(query, picture))
    kwargs = {
        "job_id": job.id,
        "query": query.model_dump(mode="json"),
        "submitted_at": job.created_at.timestamp(),
    }
    if picture is not None:
        gateway.keep_query_picture(job.id, picture)
    accepted = None
    try:
        accepted = _submit(gateway, job, [TaskMessage(SEARCH, kwargs, job.id, "search")], claim)
    finally:
        if accepted is None or not accepted.is_new:
            gateway.drop_query_picture(job.id)
    return accepted


def accept_removal(gateway: Gateway, library: str, image_id: str) -> Accepted:
    """Queues the removal of an image."""
    job = _new_job(gateway, "delete", library)
    kwargs = {"job_id": job.id, "library": library, "image_id": image_id}
    task = TaskMessage(DELETE_IMAGE, kwargs, job.id, QUEUE_OF_KIND["delete"])
    return _submit(gateway, job, [task], None)


def scoped_key(method: str, path: str, key: str | None) -> str | None:
    """Returns what an idempotency key is stored under: one key may be sent to two endpoints."""
    if key is None:
        return None
    return hashlib.sha256(f"{method} {path}\n{key}".encode()).hexdigest()


def _new_job(gateway: Gateway, kind: JobKind, library: str) -> Job:
    return Job(
        id=uuid.uuid4().hex,
        kind=kind,
        library=library,
        request_id=request_id.get(),
        created_at=now(),
        ttl_s=SEARCH_TTL_S if kind == "search" else gateway.settings.job_ttl_s,
    )


def _submit(
    gateway: Gateway, job: Job, tasks: Iterable[TaskMessage], claim: Claim | None
) -> Accepted:
    job_id = gateway.submit(job, tasks, claim)
    if job_id == job.id:
        return Accepted(job, is_new=True)
    return Accepted(gateway.jobs.get(job_id), is_new=False)


def _chunk_tasks(job: Job) -> Iterator[TaskMessage]:
    for chunk in range(job.n_chunks):
        kwargs = {"job_id": job.id, "chunk": chunk}
        task_id = chunk_task_id(job.id, chunk)
        yield TaskMessage(EMBED_CHUNK, kwargs, task_id, QUEUE_OF_KIND[job.kind])


def _fingerprint_of(query: SearchQuery, picture: bytes | None) -> str:
    digest = hashlib.sha256(query.model_dump_json().encode())
    digest.update(b"" if picture is None else image_id_of(picture).encode())
    return digest.hexdigest()


class _Manifest:
    """Writes a job's pictures and its manifest, chunk after chunk; at most a chunk is held."""

    def __init__(self, gateway: Gateway, job: Job, kind: Literal["embed", "bulk"]) -> None:
        self._blobs = gateway.blobs
        self._chunk_items = gateway.settings.chunk_items
        self._job = job
        self._kind = kind
        self._digest = hashlib.sha256(f"{kind} {job.library}".encode())
        self.n_chunks = 0
        self.n_items = 0

    @property
    def fingerprint(self) -> str:
        """Same for the same pictures, names and metadata in the same order."""
        return self._digest.hexdigest()

    def write(self, entries: Iterable[Entry]) -> None:
        """Stores all entries; when this returns, they survive a loss of power.

        Raises:
            ValidationFailed: There are none.
        """
        chunk: list[ManifestItem] = []
        with self._blobs.batch() as batch:
            for entry in entries:
                if len(chunk) == self._chunk_items:
                    self._write_chunk(batch, chunk, is_last=False)
                    chunk = []
                chunk.append(self._store(batch, entry))
            if not chunk:
                raise ValidationFailed("The upload has no pictures.")
            self._write_chunk(batch, chunk, is_last=True)

    def remove(self) -> None:
        """Takes the manifest back.

        The pictures stay: by now another upload may have been promised that one of them is
        stored, and to tell by its time is not safe within one tick of the file system's clock.
        They are found again by their content if the upload is repeated.
        """
        for chunk in range(self.n_chunks):
            self._blobs.delete(manifest_key(self._job.id, chunk))

    def _store(self, batch: BlobBatch, entry: Entry) -> ManifestItem:
        item = ManifestItem(name=entry.name, metadata=entry.metadata, error=entry.error)
        if entry.error is None:
            item.image_id = image_id_of(entry.content)
            item.n_bytes = len(entry.content)
            batch.put(image_key(self._job.library, item.image_id), entry.content)
        self._digest.update(item.model_dump_json().encode())
        self.n_items += 1
        return item

    def _write_chunk(self, batch: BlobBatch, items: list[ManifestItem], *, is_last: bool) -> None:
        head = ManifestHead(
            job_id=self._job.id,
            kind=self._kind,
            library=self._job.library,
            chunk=self.n_chunks,
            is_last=is_last,
            created_at=self._job.created_at,
        )
        lines = [head.model_dump_json(), *(item.model_dump_json() for item in items)]
        batch.put(manifest_key(self._job.id, self.n_chunks), ("\n".join(lines) + "\n").encode())
        self.n_chunks += 1
        # Chunk by chunk, so that what is not yet synced does not grow with the upload.
        batch.sync()
