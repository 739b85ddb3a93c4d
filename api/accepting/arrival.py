"""A bulk upload on its way in: each chunk is stored, then queued, while the rest arrives.

bytes ─▶ entries ─▶ blobs + manifest (synced) ─▶ the job's next chunk ─▶ … ─▶ sealed

Once a chunk is queued, no crash loses its pictures; once the request is answered, no crash loses
any of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kombu.exceptions import OperationalError
from redis import RedisError
from werkzeug.exceptions import ClientDisconnected

from twinlens.api.accepting.intake import store_entry
from twinlens.api.accepting.submission import Accepted, Submission
from twinlens.api.problems import as_own
from twinlens.shared.blobs import manifest_key
from twinlens.shared.chunking import chunk_items
from twinlens.shared.errors import (
    DeadlineExceeded,
    TwinlensError,
    UploadBroken,
    UploadCancelled,
    UploadStalled,
    ValidationFailed,
)
from twinlens.shared.manifests import write_manifest
from twinlens.shared.messages import now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from twinlens.api.accepting.intake import Intake
    from twinlens.api.accepting.limits import Limits
    from twinlens.api.accepting.terms import Terms
    from twinlens.api.reading.uploads import Entry
    from twinlens.shared.blobs import BlobBatch
    from twinlens.shared.libraries import Library
    from twinlens.shared.messages import ManifestItem
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.shared.settings import Settings

log = logging.getLogger(__name__)

# How often Redis is told that an upload is still arriving, several times in ARRIVAL_TTL_S, and
# asked whether it is still wanted.
RENEW_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """Accepts uploads of many pictures."""

    settings: Settings
    intake: Intake
    catalog: Catalog
    limits: Limits

    def accept(
        self,
        library: Library,
        body: Iterable[bytes],
        read: Callable[[Iterable[bytes]], Iterator[Entry]],
        terms: Terms,
    ) -> Accepted:
        """Stores an upload of many pictures, and queues their embedding as they arrive.

        Args:
            library: Where it goes.
            body: The upload, in pieces.
            read: Turns it into entries.
            terms: Those of the caller.

        Raises:
            TwinlensError: The upload cannot be read to its end. If chunks of it were queued by
                then, or the connection broke, a job keeps what arrived, and ends as failed; the
                error names the job. Or that job was cancelled, or its deadline has passed.
        """
        return _Arrival(self, library, terms).take(body, read)


class _Arrival:
    """One upload. From its first chunk on it belongs to a job; before that it may be refused."""

    def __init__(self, ports: Arrivals, library: Library, terms: Terms) -> None:
        self._blobs = ports.intake.blobs
        self._jobs = ports.intake.jobs
        self._publisher = ports.intake.publisher
        self._feed = ports.intake.publisher.feed
        self._limits = ports.limits
        self._job = ports.intake.new_job("bulk", library, terms)
        # Once it is open, this job or an earlier one exists.
        self._submission = Submission(self._jobs, ports.intake.idempotency, self._job, terms)
        self._chunk_items = chunk_items(ports.settings, ports.catalog.cost_s(library.id))
        self._digest = hashlib.sha256(f"bulk {library.id}".encode())
        self._chunk: list[ManifestItem] = []
        self._n_chunks = 0
        self._n_kept = 0
        self._n_passed_over = 0
        self._is_closing = False  # whether a chunk is being closed, or that failed
        self._look_at = time.monotonic() + RENEW_S

    def take(
        self, body: Iterable[bytes], read: Callable[[Iterable[bytes]], Iterator[Entry]]
    ) -> Accepted:
        with self._blobs.batch() as batch, self._signs_of_life():
            try:
                for entry in read(self._watched(body)):
                    self._take_entry(batch, entry)
                self._check_pictures()
                self._close_chunk(batch, is_last=True)
            except (RedisError, OperationalError):
                # The job's record may have been kept: then the sweeper seals it.
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
        """The same for the same pictures, names and metadata in the same order."""
        return self._digest.hexdigest()

    def _watched(self, body: Iterable[bytes]) -> Iterator[bytes]:
        """Passes the body on as long as it is wanted, and reports a lost connection.

        Raises:
            UploadBroken: The connection was lost.
            UploadCancelled: The rest is no longer wanted.
            DeadlineExceeded: It comes too late.
        """
        try:
            for piece in body:
                self._look()
                yield piece
        except (ClientDisconnected, OSError) as error:
            if isinstance(stalled := as_own(error), UploadStalled):
                raise stalled from None
            raise UploadBroken("The connection ended before the upload did.") from None

    def _take_entry(self, batch: BlobBatch, entry: Entry) -> None:
        # Of what waited on the disk, entries come when the body is read to its end.
        self._look()
        if entry.is_passed_over:
            self._n_passed_over += 1
            return
        if len(self._chunk) == self._chunk_items:
            self._close_chunk(batch, is_last=False)
        self._chunk.append(self._store(batch, entry))

    def _check_pictures(self) -> None:
        if self._chunk:
            return
        detail = "The upload has no pictures."
        if self._n_passed_over:
            detail += f" Files passed over, as none by their names: {self._n_passed_over}."
        raise ValidationFailed(detail)

    @contextlib.contextmanager
    def _signs_of_life(self) -> Iterator[None]:
        """Records that the upload still arrives, for as long as its process lives.

        That is done beside it: a slow client, or a slow disk, may hold it up for a minute.
        """
        is_over = threading.Event()

        def renew() -> None:
            while not is_over.wait(RENEW_S):
                if self._submission.is_open and not self._submission.is_repeat:
                    with contextlib.suppress(RedisError):
                        self._feed.still_arrives(self._job.id)
                        self._submission.renew()

        thread = threading.Thread(target=renew, name="signs-of-life", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()  # what it does after the end would shorten the key's life

    def _look(self) -> None:
        """Looks now and then whether the upload is still wanted."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + RENEW_S
        if self._submission.is_open and not self._submission.is_repeat:
            self._check_wanted()

    def _check_wanted(self) -> None:
        deadline_at = self._job.deadline_at
        if deadline_at is not None and deadline_at < now():
            raise DeadlineExceeded(
                f"The deadline of job {self._job.id} has passed; what was done by then is kept."
            )
        if self._jobs.status(self._job.id) == "cancelled":
            raise UploadCancelled(
                f"Job {self._job.id} was cancelled; what was embedded by then is kept."
            )

    def _store(self, batch: BlobBatch, entry: Entry) -> ManifestItem:
        # A repeat is read only to compare it with the first.
        is_kept = not self._submission.is_repeat
        item = store_entry(batch, self._job.library_id, entry, is_kept=is_kept)
        self._digest.update(item.model_dump_json().encode())
        return item

    def _close_chunk(self, batch: BlobBatch, *, is_last: bool) -> None:
        """Queues the chunk, once its pictures and its manifest are on the disk."""
        n_pictures, number = len(self._chunk), self._n_chunks
        self._is_closing = True
        if not self._submission.is_repeat:
            self._limits.check_disk()
            write_manifest(batch, self._job, number, self._chunk, is_last=is_last)
            self._n_chunks += 1
        if not self._submission.is_open:
            self._submission.open(self._fingerprint if is_last else "")
            if self._submission.is_repeat:
                self._remove_manifest()
        if not self._submission.is_repeat:
            if not self._feed.add_chunk(self._job.id, number, n_pictures):
                self._check_wanted()
                raise UploadBroken("The upload stalled for so long that its job was closed.")
            self._n_kept += n_pictures
            self._publisher.feed_workers()
        self._chunk = []
        self._is_closing = False

    def _end(self) -> Accepted:
        accepted = self._submission.answer(self._fingerprint)
        if not accepted.is_new:
            return accepted
        # In this order: who repeats the request is told of a job that is whole, or of none.
        self._feed.seal(self._job.id, n_passed_over=self._n_passed_over)
        self._submission.settle(self._fingerprint)
        return Accepted(self._jobs.get(self._job.id), is_new=True)

    def _break(self, batch: BlobBatch, reason: TwinlensError) -> None:
        """Keeps what arrived, if the job has begun or the upload itself is not at fault."""
        if isinstance(reason, UploadCancelled | DeadlineExceeded):
            self._submission.release()
            return
        is_worth_keeping = self._submission.is_open or isinstance(reason, UploadBroken)
        # What could not be stored, or is no longer accepted, is not tried again.
        if is_worth_keeping and self._chunk and not self._is_closing:
            # If that fails as well, its pictures are lost, and the first reason is reported.
            with contextlib.suppress(TwinlensError, OSError):
                self._close_chunk(batch, is_last=True)
        if self._submission.is_repeat:  # closing the chunk may have shown that
            return
        if not self._submission.is_open:
            self._remove_manifest()
            return
        self._submission.release()
        reason.detail += f" The first {self._n_kept} pictures are kept in job {self._job.id}."
        self._feed.seal(self._job.id, reason.to_problem(), self._n_passed_over)

    def _remove_manifest(self) -> None:
        """Removes the manifest.

        The pictures stay: by now another upload may have been promised that one of them is
        stored, and its time does not tell safely within one tick of the file system's clock.
        A repeated upload finds them again by their content.
        """
        for chunk in range(self._n_chunks):
            self._blobs.delete(manifest_key(self._job.id, chunk))
