"""Manifests: which pictures were accepted for a chunk of a job, even if the queue is lost."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from twinlens.shared.blobs import manifest_key
from twinlens.shared.messages import ManifestHead, ManifestItem, now

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
        accepted_at=now(),
    )
    batch.replace(manifest_key(job.id, chunk), _write(head, items))
    # Chunk by chunk, so that what is not yet synced does not grow with the upload.
    batch.sync()


def replace_manifest(blobs: BlobStore, head: ManifestHead, items: Sequence[ManifestItem]) -> None:
    """Writes a chunk's manifest anew, as where it is known by now which pictures were listed."""
    blobs.replace(manifest_key(head.job_id, head.chunk), _write(head, items))


def read_manifest(
    blobs: BlobStore, job_id: str, chunk: int
) -> tuple[ManifestHead, list[ManifestItem]]:
    """Reads what was accepted for a chunk: its head, then one picture a line.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It cannot be read.
    """
    head, *lines = blobs.get(manifest_key(job_id, chunk)).splitlines()
    return (
        ManifestHead.model_validate_json(head),
        [ManifestItem.model_validate_json(line) for line in lines],
    )


def read_manifests(
    blobs: BlobStore, job_id: str
) -> Iterator[tuple[ManifestHead, list[ManifestItem]]]:
    """Yields what was accepted of a job, chunk by chunk; what cannot be read is left out."""
    for chunk in _chunks(blobs, job_id):
        with contextlib.suppress(FileNotFoundError, ValueError):
            yield read_manifest(blobs, job_id, chunk)


def read_heads(blobs: BlobStore) -> Iterator[ManifestHead]:
    """Yields the head of one manifest of each job that has any; what cannot be read is left out."""
    for job_id in blobs.names("manifests"):
        for chunk in _chunks(blobs, job_id):
            try:
                with blobs.open(manifest_key(job_id, chunk)) as file:
                    head = ManifestHead.model_validate_json(file.readline())
            except (FileNotFoundError, ValueError):
                continue
            yield head
            break


def _chunks(blobs: BlobStore, job_id: str) -> Iterator[int]:
    for name in blobs.names(f"manifests/{job_id}"):
        chunk, dot, _ = name.partition(".")
        if dot and chunk.isdecimal():
            yield int(chunk)


def _write(head: ManifestHead, items: Sequence[ManifestItem]) -> bytes:
    lines = [head.model_dump_json(), *(item.model_dump_json() for item in items)]
    return ("\n".join(lines) + "\n").encode()
