"""In which order and in which batches `twinlens index` uploads what it was given."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from twinlens.cli.errors import CommandFailed
from twinlens.cli.upload.files import (
    PictureFile,
    find_archives,
    find_pictures,
    nothing_in,
    picture_on_disk,
    pictures_in_zip,
    size_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from twinlens.cli.upload.coco import Annotations

# A batch's bytes are held in memory, and sent once more if the service is busy.
MAX_BATCH_FILES = 256
MAX_BATCH_BYTES = 64 * 1024 * 1024


class Size(NamedTuple):
    """How much there is to upload; pictures in archives are not counted."""

    n_pictures: int
    n_bytes: int


class Plan:
    """What is uploaded: archives as they are, everything else picture by picture."""

    def __init__(self, paths: Sequence[Path], annotations: Annotations | None) -> None:
        """Does not look into any folder yet.

        Args:
            paths: Folders, pictures and archives.
            annotations: With these, zip archives are read picture by picture too.

        Raises:
            CommandFailed: There are annotations, and archives that cannot be read like this.
        """
        self._paths = paths
        self._annotations = annotations
        archives = find_archives(paths)
        self._zips = [path for path in archives if annotations and path.suffix.lower() == ".zip"]
        self.archives = [path for path in archives if path not in self._zips]
        if annotations and self.archives:
            raise CommandFailed(
                f"--coco takes folders, pictures and zip archives; unpack {self.archives[0]} first"
            )

    def pictures(self, on_error: Callable[[OSError], None]) -> Iterator[PictureFile]:
        """Gives the pictures, in the same order each time as long as nothing changes.

        Args:
            on_error: Called with the error of each folder that cannot be read.
        """
        for path in find_pictures(self._paths, on_error):
            yield picture_on_disk(path)
        for path in self._zips:
            yield from pictures_in_zip(path)

    def measure(self) -> Size:
        """Returns how much there is.

        Raises:
            CommandFailed: There is nothing, or the annotations are of other pictures.
        """
        n_pictures = n_annotated = 0
        n_bytes = sum(map(size_of, self.archives))
        errors: list[OSError] = []
        for picture in self.pictures(errors.append):
            n_pictures += 1
            n_bytes += picture.n_bytes
            n_annotated += bool(self._annotations and self._annotations.of(picture.path))
        if not n_pictures and not self.archives:
            raise nothing_in(self._paths, *errors)
        if self._annotations and not n_annotated:
            raise CommandFailed(
                f"none of the {n_pictures} pictures is named in the annotations; are they those"
                " of another part of the data set?"
            )
        return Size(n_pictures, n_bytes)


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
