"""Accepting work. Once a request is answered with 202, no crash loses its pictures or its job.

entry ─▶ blob + manifest (synced) ─▶ job record ─▶ task ─▶ 202

Uploads of many pictures are accepted in arrival.py.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis import RedisError

from twinlens.api.accepting.submission import Accepted, Submission
from twinlens.shared.blobs import image_id_of, image_key, manifest_key
from twinlens.shared.log import request_id
from twinlens.shared.manifests import write_manifest
from twinlens.shared.messages import JobKind, ManifestItem, now
from twinlens.shared.names import clean_name
from twinlens.shared.queries import DuplicatesQuery, SearchQuery
from twinlens.shared.queue import (
    DELETE_IMAGE,
    DELETE_IMAGES,
    FIND_DUPLICATES,
    SEARCH,
    TaskMessage,
    chunk_task,
)
from twinlens.shared.redis import keys
from twinlens.shared.redis.jobs import SEARCH_TTL_S, Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.api.accepting.idempotency import IdempotencyKeys
    from twinlens.api.accepting.publisher import Publisher
    from twinlens.api.accepting.terms import Terms
    from twinlens.api.reading.uploads import Entry
    from twinlens.shared.answers import Deletion
    from twinlens.shared.blobs import BlobBatch, BlobStore
    from twinlens.shared.libraries import Library
    from twinlens.shared.redis.jobs import Jobs
    from twinlens.shared.redis.sent import SentPictures

# The one chunk of a single upload.
CHUNK = 0
# The picture of a search waits in Redis no longer than anyone would wait for the answer.
QUERY_TTL_S = 600


@dataclass(frozen=True)
class SearchRequest:
    """A query, and the pictures that came with it."""

    query: SearchQuery
    positive: Sequence[bytes] = ()
    negative: Sequence[bytes] = ()


@dataclass(frozen=True, kw_only=True)
class Intake:
    """Accepts jobs of one task.

    Where a caller's idempotency key stands for an earlier job, that one is the answer; every method
    that takes terms raises `IdempotencyConflict` where it was sent with another request.
    """

    jobs: Jobs
    idempotency: IdempotencyKeys
    blobs: BlobStore
    publisher: Publisher
    sent: SentPictures
    job_ttl_s: int

    def new_job(self, kind: JobKind, library: Library, terms: Terms) -> Job:
        """Returns a job that is not recorded anywhere yet."""
        job = Job(
            id=uuid.uuid4().hex,
            kind=kind,
            library=library.name,
            library_id=library.id,
            request_id=request_id.get(),
            created_at=now(),
            ttl_s=SEARCH_TTL_S if kind == "search" else self.job_ttl_s,
        )
        terms.put_into(job)
        return job

    def accept_picture(self, library: Library, entry: Entry, terms: Terms) -> Accepted:
        """Stores one picture and queues its embedding.

        Args:
            library: Where it goes.
            entry: The picture.
            terms: Those of the caller.
        """
        job = self.new_job("embed", library, terms)
        job.n_chunks = job.received = job.total = 1
        with self.blobs.batch() as batch:
            item = store_entry(batch, library.id, entry)
            write_manifest(batch, job, CHUNK, [item], is_last=True)
        fingerprint = _hash(f"embed {library.id}".encode(), item.model_dump_json().encode())
        task = chunk_task("single", job.id, CHUNK)
        try:
            accepted = self.submit(job, task, terms, fingerprint)
        except RedisError:
            # The job's record may have been kept: then the sweeper queues it again.
            raise
        except Exception:
            self.blobs.delete(manifest_key(job.id, CHUNK))
            raise
        if not accepted.is_new:
            self.blobs.delete(manifest_key(job.id, CHUNK))
        return accepted

    def accept_search(self, library: Library, asked: SearchRequest, terms: Terms) -> Accepted:
        """Queues a search. Its pictures wait in Redis, the positive ones first."""
        query = asked.query
        job = self.new_job("search", library, terms)
        kwargs = {
            "job_id": job.id,
            "query": query.model_dump(mode="json"),
            "submitted_at": job.created_at.timestamp(),
            "sent": [len(asked.positive), len(asked.negative)],
        }
        task = TaskMessage(SEARCH, kwargs, job.id, "search")
        pictures = [*asked.positive, *asked.negative]
        return self.submit(job, task, terms, _fingerprint_of(asked), pictures)

    def accept_duplicates(self, library: Library, query: DuplicatesQuery, terms: Terms) -> Accepted:
        """Queues the search for a library's near-duplicates."""
        job = self.new_job("duplicates", library, terms)
        kwargs = {"job_id": job.id, "query": query.model_dump(mode="json")}
        task = TaskMessage(FIND_DUPLICATES, kwargs, job.id, "single")
        return self.submit(job, task, terms, _hash(query.model_dump_json().encode()))

    def accept_removal(self, library: Library, image_id: str, terms: Terms) -> Accepted:
        """Queues the removal of an image."""
        job = self.new_job("delete", library, terms)
        kwargs = {"job_id": job.id, "image_id": image_id}
        return self.submit(job, TaskMessage(DELETE_IMAGE, kwargs, job.id, "single"), terms)

    def accept_removals(self, library: Library, wanted: Deletion, terms: Terms) -> Accepted:
        """Queues the removal of many images."""
        job = self.new_job("delete", library, terms)
        job.has_items = True
        kwargs = {"job_id": job.id, "wanted": wanted.model_dump(mode="json", exclude_unset=True)}
        task = TaskMessage(DELETE_IMAGES, kwargs, job.id, "single")
        fingerprint = _hash(library.id.encode(), wanted.model_dump_json().encode())
        return self.submit(job, task, terms, fingerprint)

    def submit(
        self,
        job: Job,
        task: TaskMessage,
        terms: Terms,
        fingerprint: str = "",
        pictures: Sequence[bytes] = (),
    ) -> Accepted:
        """Records a job with its one task, and queues the task; or does neither.

        What is recorded and not queued, or lost on its way, the sweeper queues.

        Args:
            job: The job.
            task: Its task.
            terms: Those of the caller.
            fingerprint: The request's.
            pictures: Those sent with a query.

        Raises:
            IdempotencyConflict: The key was sent with another request.
            UploadInProgress: The key's first request is still arriving.
            QueueFull: The pictures of other queries take all the memory that there is.
        """
        kept = {
            keys.query_picture(job.id, number): (picture, QUERY_TTL_S)
            for number, picture in enumerate(pictures)
        }
        job.task = task
        submission = Submission(self.jobs, self.idempotency, job, terms, kept)
        self.sent.reserve(job.id, pictures, QUERY_TTL_S)
        try:
            submission.open(fingerprint)
        except Exception:
            self.sent.forget(job.id, len(pictures))
            raise
        if submission.is_repeat:
            self.sent.forget(job.id, len(pictures))
        else:
            try:
                self.publisher.publish(task)
            except Exception:
                submission.take_back()
                self.sent.forget(job.id, len(pictures))
                raise
        return submission.answer(fingerprint)


def store_entry(
    batch: BlobBatch, library_id: str, entry: Entry, *, is_kept: bool = True
) -> ManifestItem:
    """Stores a picture's bytes, and returns its line of the manifest."""
    item = ManifestItem(
        name=clean_name(entry.name), metadata=entry.metadata, error=entry.error, uri=entry.uri
    )
    if entry.earlier is not None:
        item.image_id, item.n_bytes = entry.earlier
    elif entry.error is None and entry.uri is None:
        item.image_id = entry.image_id
        item.n_bytes = len(entry.content)
        if is_kept:
            batch.put(image_key(library_id, item.image_id), entry.content)
    return item


def _fingerprint_of(asked: SearchRequest) -> str:
    names = (" ".join(map(image_id_of, kind)) for kind in (asked.positive, asked.negative))
    return _hash(asked.query.model_dump_json().encode(), *(f"{one}\n".encode() for one in names))


def _hash(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()
