"""Manifests: which pictures were accepted for a chunk of a job, even if the queue is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.shared.blobs import manifest_key
from twinlens.shared.messages import ManifestHead, ManifestItem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.shared.blobs import BlobBatch, BlobStore
    from twinlens.shared.redis.jobs import Job


def write_manifest(
    batch: BlobBatch, job: Job, chunk: int, items: Sequence[ManifestItem], *, is_last: bool
) -> None:
    """Writes a chunk's manifest; when this returns, it and its pictures survive a power cut."""
    head = ManifestHead(
        job_id=job.id,
        kind=job.kind,
        library=job.library,
        library_id=job.library_id,
        chunk=chunk,
        is_last=is_last,
        created_at=job.created_at,
    )
    lines = [head.model_dump_json(), *(item.model_dump_json() for item in items)]
    batch.put(manifest_key(job.id, chunk), ("\n".join(lines) + "\n").encode())
    # Chunk by chunk, so that what is not yet synced does not grow with the upload.
    batch.sync()


def read_manifest(
    blobs: BlobStore, job_id: str, chunk: int
) -> tuple[ManifestHead, list[ManifestItem]]:
    """Reads what was accepted for a chunk: its head, then one picture a line."""
    head, *lines = blobs.get(manifest_key(job_id, chunk)).splitlines()
    return (
        ManifestHead.model_validate_json(head),
        [ManifestItem.model_validate_json(line) for line in lines],
    )
