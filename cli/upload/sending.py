"""Sends batches and archives, and reports the outcome of each. Several threads do so at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from twinlens.cli.upload.files import archive_type
from twinlens.cli.upload.picture_file import PictureFile, Unreadable
from twinlens.client.client import Client, Upload
from twinlens.client.errors import UploadRefused
from twinlens.shared.blobs import image_id_of
from twinlens.shared.messages import Description

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from twinlens.shared.answers import JobAnswer
    from twinlens.shared.messages import Metadata


# A picture, and its bytes.
_Read = tuple[PictureFile, bytes]


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
        on_read: Called from any thread with the number of bytes that were just read.
        metadata_in: Returns what a picture's bytes say of it; what else is known of it goes before.
        is_updating: Whether pictures that are there get these metadata.
    """

    client: Client
    library: str
    on_read: Callable[[int], None]
    metadata_in: Callable[[bytes], Metadata] | None = None
    is_updating: bool = False

    def send_batch(self, batch: Sequence[PictureFile]) -> SentBatch:
        """Uploads those pictures of a batch that the library does not have, or not as they are."""
        sent = SentBatch()
        pictures = self._read(batch, sent)
        new = self._new_uploads(pictures)
        sent.n_there = len(pictures) - len(new)
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

    def _read(self, batch: Sequence[PictureFile], sent: SentBatch) -> list[_Read]:
        pictures = []
        for file in batch:
            try:
                pictures.append((file, file.read()))
            except Unreadable as error:
                sent.failures.append(Failure(str(file.path), str(error)))
        return pictures

    def _new_uploads(self, pictures: Sequence[_Read]) -> list[Upload]:
        """Leaves out what is there. Names say nothing here: copies have several."""
        ids = [image_id_of(content) for _, content in pictures]
        if not ids:
            return []
        # What a picture says is read of those alone that it may matter for.
        uploads = [self._upload(*one) for one in pictures] if self.is_updating else []
        described = {
            image_id: Description(metadata=upload.metadata)
            for image_id, upload in zip(ids, uploads, strict=False)
        }
        answer = self.client.missing(ids, self.library, described)
        new = {*answer.missing, *answer.changed}
        places = [place for place, image_id in enumerate(ids) if image_id in new]
        return [uploads[place] if uploads else self._upload(*pictures[place]) for place in places]

    def _upload(self, file: PictureFile, content: bytes) -> Upload:
        said = self.metadata_in(content) if self.metadata_in else {}
        return Upload(file.name, content, said | file.metadata or None)
