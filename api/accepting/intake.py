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

from twinlens.api.accepting.gateway import Claim, Gateway, TaskMessage
from twinlens.shared.blobs import image_id_of, image_key, manifest_key
from twinlens.shared.log import request_id
from twinlens.shared.manifests import write_manifest
from twinlens.shared.messages import DuplicatesQuery, JobKind, ManifestItem, SearchQuery, now
from twinlens.shared.queue import (
    DELETE_IMAGE,
    EMBED_CHUNK,
    FIND_DUPLICATES,
    SEARCH,
    chunk_task_id,
)
from twinlens.shared.redis.jobs import SEARCH_TTL_S, Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.api.reading.uploads import Entry
    from twinlens.shared.blobs import BlobBatch

# The one chunk of a single upload.
CHUNK = 0


@dataclass(frozen=True)
class Asked:
    """A query, and the pictures that came with it."""

    query: SearchQuery
    positive: Sequence[bytes] = ()
    negative: Sequence[bytes] = ()


@dataclass(frozen=True)
class Accepted:
    """The job that stands for a request."""

    job: Job
    is_new: bool


def accept_picture(gateway: Gateway, library: str, entry: Entry, key: str | None) -> Accepted:
    """Stores one picture and queues its embedding.

    Args:
        gateway: Where to.
        library: Its name; it is there.
        entry: The picture.
        key: The caller's idempotency key, scoped.
    """
    job = new_job(gateway, "embed", library)
    job.n_chunks = job.received = job.total = 1
    with gateway.blobs.batch() as batch:
        item = store_entry(batch, library, entry)
        write_manifest(batch, job, CHUNK, [item], is_last=True)
    digest = hashlib.sha256(f"embed {library}".encode() + item.model_dump_json().encode())
    kwargs = {"job_id": job.id, "chunk": CHUNK}
    task = TaskMessage(EMBED_CHUNK, kwargs, chunk_task_id(job.id, CHUNK), "single")
    accepted = None
    try:
        claim = None if key is None else Claim(key, digest.hexdigest())
        accepted = _submit(gateway, job, task, claim)
    except RedisError:
        # The record may have stayed, and with it the job: the sweeper queues it again.
        raise
    except Exception:
        gateway.blobs.delete(manifest_key(job.id, CHUNK))
        raise
    if not accepted.is_new:
        gateway.blobs.delete(manifest_key(job.id, CHUNK))
    return accepted


def accept_search(gateway: Gateway, asked: Asked, key: str | None) -> Accepted:
    """Queues a search."""
    query = asked.query
    job = new_job(gateway, "search", query.library)
    claim = None if key is None else Claim(key, _fingerprint_of(asked))
    kwargs = {
        "job_id": job.id,
        "query": query.model_dump(mode="json"),
        "submitted_at": job.created_at.timestamp(),
        "sent": [len(asked.positive), len(asked.negative)],
    }
    task = TaskMessage(SEARCH, kwargs, job.id, "search")
    return _submit(gateway, job, task, claim, [*asked.positive, *asked.negative])


def accept_duplicates(gateway: Gateway, query: DuplicatesQuery, key: str | None) -> Accepted:
    """Queues the search for a library's near-duplicates."""
    job = new_job(gateway, "duplicates", query.library)
    text = query.model_dump_json()
    claim = None if key is None else Claim(key, hashlib.sha256(text.encode()).hexdigest())
    kwargs = {"job_id": job.id, "query": query.model_dump(mode="json")}
    return _submit(gateway, job, TaskMessage(FIND_DUPLICATES, kwargs, job.id, "single"), claim)


def accept_removal(gateway: Gateway, library: str, image_id: str) -> Accepted:
    """Queues the removal of an image."""
    job = new_job(gateway, "delete", library)
    kwargs = {"job_id": job.id, "library": library, "image_id": image_id}
    return _submit(gateway, job, TaskMessage(DELETE_IMAGE, kwargs, job.id, "single"), None)


def new_job(gateway: Gateway, kind: JobKind, library: str) -> Job:
    """Returns a job that is nowhere recorded yet."""
    return Job(
        id=uuid.uuid4().hex,
        kind=kind,
        library=library,
        request_id=request_id.get(),
        created_at=now(),
        ttl_s=SEARCH_TTL_S if kind == "search" else gateway.settings.job_ttl_s,
    )


def store_entry(
    batch: BlobBatch, library: str, entry: Entry, *, is_kept: bool = True
) -> ManifestItem:
    """Stores a picture's bytes, and returns its line of the manifest."""
    item = ManifestItem(name=entry.name, metadata=entry.metadata, error=entry.error, uri=entry.uri)
    if entry.error is None and entry.uri is None:
        item.image_id = image_id_of(entry.content)
        item.n_bytes = len(entry.content)
        if is_kept:
            batch.put(image_key(library, item.image_id), entry.content)
    return item


def _submit(
    gateway: Gateway,
    job: Job,
    task: TaskMessage,
    claim: Claim | None,
    pictures: Sequence[bytes] = (),
) -> Accepted:
    job_id = gateway.submit(job, task, claim, pictures)
    if job_id == job.id:
        return Accepted(job, is_new=True)
    return Accepted(gateway.jobs.get(job_id), is_new=False)


def _fingerprint_of(asked: Asked) -> str:
    digest = hashlib.sha256(asked.query.model_dump_json().encode())
    for kind in (asked.positive, asked.negative):
        digest.update(" ".join(map(image_id_of, kind)).encode() + b"\n")
    return digest.hexdigest()
