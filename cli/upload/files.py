"""Finds what `twinlens index` uploads: pictures in folders and zip archives, one after another.

None is read, and no list of them is made: a folder may hold millions.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from twinlens.api.reading.archives import is_noise
from twinlens.cli.errors import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator

# What a worker may serve; other files are ignored.
PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".gif", ".webp", ".tif", ".tiff", ".bmp", ".avif"}
)
ARCHIVE_TYPES = {
    ".zip": "application/zip",
    ".tar": "application/x-tar",
    ".tar.gz": "application/gzip",
    ".tgz": "application/gzip",
    ".tar.zst": "application/zstd",
    ".ndjson": "application/x-ndjson",
}


class Unreadable(Exception):
    """A picture whose bytes cannot be read; the text says why."""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture in a folder or an archive, read when its batch is sent.

    Attributes:
        path: Where it lies, in an archive after the archive's own path.
        n_bytes: Its size; 0 if unknown.
        read: Returns its bytes, or raises Unreadable.
    """

    path: PurePath
    n_bytes: int
    read: Callable[[], bytes]

    @property
    def name(self) -> str:
        """The file name for the service; bytes that are not UTF-8 become marks."""
        return os.fsencode(self.path.name).decode(errors="replace")


class Files(NamedTuple):
    """Pictures, and archives of them."""

    pictures: list[Path]
    archives: list[Path]


def archive_type(path: Path) -> str | None:
    """Returns the media type of an archive or a listing by its name; None for anything else."""
    name = path.name.lower()
    types = (kind for suffix, kind in ARCHIVE_TYPES.items() if name.endswith(suffix))
    return next(types, None)


def find_files(paths: Iterable[Path]) -> Files:
    """Returns the pictures and the archives that paths name, each in the order of their names.

    Raises:
        CommandFailed: There are none.
    """
    named = list(paths)
    files = Files(sorted(find_pictures(named)), find_archives(named))
    if not files.pictures and not files.archives:
        raise nothing_in(named)
    return files


def find_archives(paths: Iterable[Path]) -> list[Path]:
    """Returns the archives among paths; folders are not searched for them."""
    return sorted({path for path in paths if archive_type(path) and not path.is_dir()})


def find_pictures(
    paths: Iterable[Path], on_error: Callable[[OSError], None] | None = None
) -> Iterator[Path]:
    """Gives the picture files that paths name, in no order, and no path twice.

    In folders, files that are hidden or not pictures are skipped.

    Args:
        paths: Folders and files; archives are skipped.
        on_error: Called with the error of each folder that cannot be read.
    """
    named = dict.fromkeys(paths)
    for path in named:
        if path.is_dir():
            yield from _pictures_in(path, named, on_error or (lambda _: None))
        elif not archive_type(path):
            yield path


def picture_on_disk(path: Path) -> PictureFile:
    """Returns a picture that is a file of its own."""
    return PictureFile(path, size_of(path), partial(_read_file, path))


def pictures_in_zip(path: Path) -> Iterator[PictureFile]:
    """Gives the pictures of a zip archive; anything else in it is skipped.

    Raises:
        CommandFailed: It cannot be read.
    """
    try:
        # It is open as long as a picture of it is held. Threads may read it at the same time.
        archive = zipfile.ZipFile(path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise CommandFailed(f"{path} cannot be read as a zip archive: {error}") from None
    for member in archive.infolist():
        if not is_noise(member.filename) and _is_picture(member.filename):
            place = path / PurePosixPath(member.filename.lstrip("/"))
            yield PictureFile(place, member.file_size, partial(_read_member, archive, member))


def size_of(path: Path) -> int:
    """Returns a file's size; 0 if that fails, as reading the file will tell why."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def nothing_in(paths: Iterable[Path], *errors: OSError) -> CommandFailed:
    """Returns the error for paths that name no picture, with the reason if one is known."""
    reasons = "".join(f" ({error.filename}: {error.strerror})" for error in errors[:1])
    return CommandFailed(f"there is no picture in {', '.join(map(str, paths))}{reasons}")


def _pictures_in(
    folder: Path, named: Container[Path], on_error: Callable[[OSError], None]
) -> Iterator[Path]:
    """Gives the pictures in and below a folder, without those that the user named as well."""
    folders = [folder]
    while folders:
        here = folders.pop()
        try:
            # Not sorted: that would hold all names of a folder.
            with os.scandir(here) as entries:
                for entry in entries:
                    path = here / entry.name
                    if entry.name.startswith(".") or path in named:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(path)
                    elif _is_picture(entry.name) and (entry.is_file() or entry.is_symlink()):
                        yield path
        except OSError as error:
            on_error(error)


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES  # noqa: PTH122 (a str)


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(member)
    # Encrypted: RuntimeError; an unknown compression: its subclass NotImplementedError.
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise Unreadable(str(error) or "it is cut short") from None
