"""Sends batches and archives, and reports the outcome of each. Several threads do so at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from twinlens.cli.upload.files import PictureFile, Unreadable, archive_type
from twinlens.client.client import Client, Upload
from twinlens.client.errors import UploadRefused
from twinlens.shared.blobs import image_id_of
from twinlens.shared.messages import Description

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from twinlens.cli.upload.coco import Annotations
    from twinlens.shared.answers import JobAnswer


class Failure(NamedTuple):
    """What could not be sent, and why."""

    name: str
    reason: str


@dataclass
class SentBatch:
    """The outcome of a batch or an archive; without a job if there was nothing to send."""

    job: JobAnswer | None = None
    is_archive: bool = False
    n_there: int = 0
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True)
class Sender:
    """Sends pictures to a library.

    Attributes:
        client: The service.
        library: The library's name.
        annotations: Metadata of the pictures.
        on_read: Called from any thread with the number of bytes that were just read.
    """

    client: Client
    library: str
    annotations: Annotations | None
    on_read: Callable[[int], None]

    def send_batch(self, batch: Sequence[PictureFile]) -> SentBatch:
        """Uploads those pictures of a batch that the library does not have, or not as they are."""
        sent = SentBatch()
        uploads = self._read(batch, sent)
        ids = [image_id_of(upload.content) for upload in uploads]
        worth_it = self._worth_an_upload(uploads, ids) if ids else set()
        new = [one for one, id_ in zip(uploads, ids, strict=True) if id_ in worth_it]
        sent.n_there = len(uploads) - len(new)
        if new:
            sent.job = self.client.add_pictures(new, self.library)
        self.on_read(sum(file.n_bytes for file in batch))
        return sent

    def send_archive(self, path: Path) -> SentBatch:
        """Uploads an archive as it is."""
        media_type = archive_type(path) or ""
        try:
            job = self.client.add_archive(path, media_type, self.library, self.on_read)
        except UploadRefused as error:
            return SentBatch(failures=[Failure(str(path), str(error))])
        return SentBatch(job, is_archive=True)

    def _worth_an_upload(self, uploads: Sequence[Upload], ids: Sequence[str]) -> set[str]:
        described = {
            image_id: Description(name=one.name or None, metadata=one.metadata)
            for image_id, one in zip(ids, uploads, strict=True)
        }
        answer = self.client.missing(ids, self.library, described)
        return {*answer.missing, *answer.changed}

    def _read(self, batch: Sequence[PictureFile], sent: SentBatch) -> list[Upload]:
        uploads = []
        for file in batch:
            metadata = self.annotations.of(file.path) or None if self.annotations else None
            try:
                uploads.append(Upload(file.name, file.read(), metadata))
            except Unreadable as error:
                sent.failures.append(Failure(str(file.path), str(error)))
        return uploads
