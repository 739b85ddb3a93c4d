"""A bulk upload on its way in: chunk after chunk is stored, then queued, while the rest arrives.

bytes ─▶ entries ─▶ blobs + manifest (synced) ─▶ the job's next chunk ─▶ … ─▶ sealed

Once a chunk is queued, no crash loses its pictures; once the request is answered, none of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from typing import TYPE_CHECKING

from kombu.exceptions import OperationalError
from redis import RedisError
from werkzeug.exceptions import ClientDisconnected

from twinlens.api.accepting.idempotency import KeyOwner, check_same_request
from twinlens.api.accepting.intake import Accepted, new_job, store_entry
from twinlens.api.problems import as_own
from twinlens.shared.blobs import manifest_key
from twinlens.shared.chunking import chunk_items
from twinlens.shared.errors import TwinlensError, UploadBroken, ValidationFailed
from twinlens.shared.manifests import write_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from twinlens.api.accepting.gateway import Gateway
    from twinlens.api.reading.uploads import Entry
    from twinlens.shared.blobs import BlobBatch
    from twinlens.shared.messages import ManifestItem

log = logging.getLogger(__name__)

# How often Redis is told that an upload still arrives: many times in ARRIVAL_TTL_S.
RENEW_S = 20.0


def accept_bulk(
    gateway: Gateway,
    library: str,
    body: Iterable[bytes],
    read: Callable[[Iterable[bytes]], Iterator[Entry]],
    key: str | None,
) -> Accepted:
    """Stores an upload of many pictures, and queues their embedding as they arrive.

    Args:
        gateway: Where to.
        library: Its name; it is there.
        body: The upload, in pieces.
        read: Makes entries of it.
        key: The caller's idempotency key, scoped.

    Raises:
        TwinlensError: The upload cannot be read to its end. If chunks of it were queued by
            then, or the connection broke, a job keeps what arrived, and ends as failed; the
            error names it.
    """
    return _Arrival(gateway, library, key).take(body, read)


class _Arrival:
    """One upload. It is a job's own from the first chunk on; before that it may be refused."""

    def __init__(self, gateway: Gateway, library: str, key: str | None) -> None:
        self._gateway = gateway
        self._key = key
        self._job = new_job(gateway, "bulk", library)
        self._chunk_items = chunk_items(gateway.settings, gateway.catalog.cost_s(library))
        self._digest = hashlib.sha256(f"bulk {library}".encode())
        self._chunk: list[ManifestItem] = []
        self._n_chunks = 0
        self._n_kept = 0
        self._is_closing = False  # a chunk: while it is, or if that failed
        self._owner: KeyOwner | None = None  # once the job, or an earlier one, is there
        self._renew_at = time.monotonic() + RENEW_S

    def take(
        self, body: Iterable[bytes], read: Callable[[Iterable[bytes]], Iterator[Entry]]
    ) -> Accepted:
        with self._gateway.blobs.batch() as batch:
            try:
                for entry in read(self._watched(body)):
                    if len(self._chunk) == self._chunk_items:
                        self._close_chunk(batch, is_last=False)
                    self._chunk.append(self._store(batch, entry))
                if not self._chunk:
                    raise ValidationFailed("The upload has no pictures.")  # noqa: TRY301
                self._close_chunk(batch, is_last=True)
            except (RedisError, OperationalError):
                # The record may have stayed, and with it the job: the sweeper seals it.
                raise
            except Exception as error:
                reason = as_own(error)
                self._break(batch, reason)
                if reason is error:
                    raise
                log.warning("an upload broke", exc_info=error)
                raise reason from error
        return self._end()

    @property
    def _fingerprint(self) -> str:
        """Same for the same pictures, names and metadata in the same order."""
        return self._digest.hexdigest()

    @property
    def _is_repeat(self) -> bool:
        """Whether the key stands for an earlier job: then the rest is read only to compare."""
        return self._owner is not None and self._owner.job_id != self._job.id

    def _watched(self, body: Iterable[bytes]) -> Iterator[bytes]:
        """Passes the body on, tells that it still arrives, and tells a broken connection."""
        try:
            for piece in body:
                if time.monotonic() >= self._renew_at:
                    self._renew()
                yield piece
        except (ClientDisconnected, OSError):
            raise UploadBroken("The connection ended before the upload did.") from None

    def _renew(self) -> None:
        self._renew_at = time.monotonic() + RENEW_S
        if self._owner is not None and not self._is_repeat:
            self._gateway.feed.still_arrives(self._job.id)
            if self._key is not None:
                self._gateway.keys.renew(self._key)

    def _store(self, batch: BlobBatch, entry: Entry) -> ManifestItem:
        item = store_entry(batch, self._job.library, entry, is_kept=not self._is_repeat)
        self._digest.update(item.model_dump_json().encode())
        return item

    def _close_chunk(self, batch: BlobBatch, *, is_last: bool) -> None:
        """Queues the chunk, once its pictures and its manifest are on the disk."""
        n_pictures, number = len(self._chunk), self._n_chunks
        self._is_closing = True
        if not self._is_repeat:
            self._gateway.limits.check_disk()
            write_manifest(batch, self._job, number, self._chunk, is_last=is_last)
            self._n_chunks += 1
        if self._owner is None:
            self._owner = self._open(is_whole=is_last)
        if not self._is_repeat:
            if not self._gateway.feed.add_chunk(self._job.id, n_pictures):
                raise UploadBroken("The upload stood still for so long that its job was closed.")
            self._n_kept += n_pictures
            self._gateway.feed_workers()
        self._chunk = []
        self._is_closing = False

    def _open(self, *, is_whole: bool) -> KeyOwner:
        """Makes the job, unless the key stands for one."""
        job_id = self._job.id
        self._gateway.jobs.create(self._job)
        if self._key is None:
            return KeyOwner(job_id, "")
        try:
            fingerprint = self._fingerprint if is_whole else ""
            owner = self._gateway.keys.claim(self._key, job_id, fingerprint)
        except Exception:
            self._gateway.jobs.forget(self._job)
            raise
        if owner.job_id != job_id:
            self._gateway.jobs.forget(self._job)
            self._remove_manifest()
        return owner

    def _end(self) -> Accepted:
        assert self._owner is not None
        if self._is_repeat:
            check_same_request(self._owner, self._fingerprint)
            return Accepted(self._gateway.jobs.get(self._owner.job_id), is_new=False)
        if self._key is not None:
            self._gateway.keys.settle(self._key, self._job.id, self._fingerprint)
        self._gateway.feed.seal(self._job.id)
        return Accepted(self._gateway.jobs.get(self._job.id), is_new=True)

    def _break(self, batch: BlobBatch, reason: TwinlensError) -> None:
        """Keeps what arrived, if the job has begun, or if it is not the upload that is bad."""
        is_worth_keeping = self._owner is not None or isinstance(reason, UploadBroken)
        # What could not be stored, or is not taken any more, is not tried a second time.
        if is_worth_keeping and self._chunk and not self._is_closing:
            # If that fails as well, its pictures are lost, and the first reason is told.
            with contextlib.suppress(TwinlensError, OSError):
                self._close_chunk(batch, is_last=True)
        if self._is_repeat:  # which may have come out by this chunk: the key is another job's
            return
        if self._owner is None:
            self._remove_manifest()
            return
        if self._key is not None:
            self._gateway.keys.release(self._key)
        reason.detail += f" The {self._n_kept} pictures before it are kept, in job {self._job.id}."
        self._gateway.feed.seal(self._job.id, reason.to_problem())

    def _remove_manifest(self) -> None:
        """Takes the manifest back.

        The pictures stay: by now another upload may have been promised that one of them is
        stored, and to tell by its time is not safe within one tick of the file system's clock.
        They are found again by their content if the upload is repeated.
        """
        for chunk in range(self._n_chunks):
            self._gateway.blobs.delete(manifest_key(self._job.id, chunk))
