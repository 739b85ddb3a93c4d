"""In which order and in which batches `twinlens index` uploads what it was given."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from twinlens.cli.errors import CommandFailed
from twinlens.cli.upload.files import (
    Walk,
    find_archives,
    nothing_in,
    only_pictures,
    size_of,
)
from twinlens.cli.upload.passed import PassedOver
from twinlens.cli.upload.picture_file import PictureFile
from twinlens.cli.upload.zips import files_in_zip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from twinlens.cli.upload.annotations import Annotations

# A batch's bytes are held in memory, and sent once more if the service is busy.
MAX_BATCH_FILES = 256
MAX_BATCH_BYTES = 64 * 1024 * 1024


class Size(NamedTuple):
    """How much there is to upload; pictures in archives are not counted."""

    n_pictures: int
    n_bytes: int


class Plan:
    """What is uploaded: picture by picture, also of zip archives; other archives as they are."""

    def __init__(
        self,
        paths: Sequence[Path],
        annotations: Annotations | None = None,
        *,
        takes_archives: bool = True,
    ) -> None:
        """Does not look into any folder yet.

        Args:
            paths: Folders, pictures and archives.
            annotations: Metadata of the pictures.
            takes_archives: Whether archives may be sent as they are; with annotations they may
                not, since nothing could be said of their pictures.

        Raises:
            CommandFailed: They may not, and there are some.
        """
        self._paths = paths
        self._annotations = annotations
        archives = find_archives(paths)
        self._zips = [path for path in archives if path.suffix.lower() == ".zip"]
        self.archives = [path for path in archives if path not in self._zips]
        if self.archives and (annotations is not None or not takes_archives):
            raise CommandFailed(
                "--coco and --gps take folders, pictures and zip archives; unpack"
                f" {self.archives[0]} first"
            )

    def pictures(
        self, on_error: Callable[[OSError], None], passed: PassedOver
    ) -> Iterator[PictureFile]:
        """Gives the pictures with their metadata.

        Args:
            on_error: Called with the error of each folder or zip archive that cannot be read.
            passed: Counts the files that are no pictures.
        """
        for picture in self._pictures(on_error, passed):
            if self._annotations is None:
                yield picture
            else:
                yield replace(picture, metadata=self._annotations.take(picture.path))

    def measure(self) -> Size:
        """Returns how much there is, and tells the annotations which pictures there are.

        Raises:
            CommandFailed: There is nothing, or the annotations are of other pictures.
        """
        n_pictures = 0
        n_bytes = sum(map(size_of, self.archives))
        errors: list[OSError] = []
        passed = PassedOver()
        for picture in self._pictures(errors.append, passed):
            n_pictures += 1
            n_bytes += picture.n_bytes
            if self._annotations is not None:
                self._annotations.note(picture.path)
        if not n_pictures and not self.archives:
            raise nothing_in(self._paths, passed, errors)
        if self._annotations is not None and not self._annotations.are_of_some:
            raise CommandFailed(
                f"none of the {n_pictures} pictures is named in the annotations; are they those"
                " of another part of the data set?"
            )
        return Size(n_pictures, n_bytes)

    def _pictures(
        self, on_error: Callable[[OSError], None], passed: PassedOver
    ) -> Iterator[PictureFile]:
        yield from only_pictures(Walk(self._paths, passed, on_error).files(), passed)
        for path in self._zips:
            yield from only_pictures(files_in_zip(path, passed, on_error), passed)


def make_batches(
    pictures: Iterable[PictureFile],
    max_files: int = MAX_BATCH_FILES,
    max_bytes: int = MAX_BATCH_BYTES,
) -> Iterator[list[PictureFile]]:
    """Groups pictures within both limits; a larger one goes alone."""
    batch: list[PictureFile] = []
    n_bytes = 0
    for picture in pictures:
        if batch and (len(batch) == max_files or n_bytes + picture.n_bytes > max_bytes):
            yield batch
            batch, n_bytes = [], 0
        batch.append(picture)
        n_bytes += picture.n_bytes
    if batch:
        yield batch
