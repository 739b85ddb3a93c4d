"""Sends batches and archives, and says what came of each. Several threads do so at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from twinlens.cli.upload.sources import Source, Unreadable, archive_type
from twinlens.client.client import Client, Picture
from twinlens.client.errors import UploadRefused
from twinlens.shared.blobs import image_id_of

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
class Sent:
    """What came of a batch or an archive; no job if there was nothing to send."""

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
        on_read: Told how many bytes were read, again and again, by any thread.
    """

    client: Client
    library: str
    annotations: Annotations | None
    on_read: Callable[[int], None]

    def send_batch(self, batch: Sequence[Source]) -> Sent:
        """Uploads what the library does not have of a batch."""
        sent = Sent()
        pictures = self._read(batch, sent)
        ids = [image_id_of(picture.content) for picture in pictures]
        missing = set(self.client.missing(ids, self.library)) if ids else set()
        new = [one for one, id_ in zip(pictures, ids, strict=True) if id_ in missing]
        sent.n_there = len(pictures) - len(new)
        if new:
            sent.job = self.client.add_pictures(new, self.library)
        self.on_read(sum(source.n_bytes for source in batch))
        return sent

    def send_archive(self, path: Path) -> Sent:
        """Uploads an archive as it is."""
        media_type = archive_type(path) or ""
        try:
            job = self.client.add_archive(path, media_type, self.library, self.on_read)
        except UploadRefused as error:
            return Sent(failures=[Failure(str(path), str(error))])
        return Sent(job, is_archive=True)

    def _read(self, batch: Sequence[Source], sent: Sent) -> list[Picture]:
        pictures = []
        for source in batch:
            metadata = self.annotations.of(source.path) if self.annotations else {}
            try:
                pictures.append(Picture(source.name, source.read(), metadata))
            except Unreadable as error:
                sent.failures.append(Failure(str(source.path), str(error)))
        return pictures
