"""Finds what `twinlens index` uploads: pictures in folders, one after another.

No list of them is made: a folder may hold millions.
"""

from __future__ import annotations

import os
import stat
import sys
from functools import partial
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, NamedTuple

from twinlens.cli.errors import CommandFailed
from twinlens.cli.files import STDIN
from twinlens.cli.upload.kinds import (
    HEAD_BYTES,
    kind_by_head,
    kind_by_name,
    kind_of_folder,
    says_picture,
)
from twinlens.cli.upload.passed import PassedOver
from twinlens.cli.upload.picture_file import PictureFile, Unreadable
from twinlens.shared.files import open_regular, special_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ARCHIVE_TYPES = {
    ".zip": "application/zip",
    ".tar": "application/x-tar",
    ".tar.gz": "application/gzip",
    ".tgz": "application/gzip",
    ".tar.zst": "application/zstd",
    ".ndjson": "application/x-ndjson",
}


def archive_type(path: Path) -> str | None:
    """Returns the media type of an archive or a listing by its name; None for anything else."""
    name = path.name.lower()
    types = (kind for suffix, kind in ARCHIVE_TYPES.items() if name.endswith(suffix))
    return next(types, None)


def find_archives(paths: Iterable[Path]) -> list[Path]:
    """Returns the archives among paths; folders are not searched for them."""
    return sorted({path for path in paths if archive_type(path) and not path.is_dir()})


def find_pictures(*paths: Path) -> list[Path]:
    """Returns the pictures in and below folders that can be read, in the order of their names.

    Raises:
        CommandFailed: There are none.
    """
    passed, errors = PassedOver(), list[OSError]()
    files = only_pictures(Walk(paths, passed, errors.append).files(), passed)
    pictures = sorted(Path(file.path) for file in files if _is_readable(file))
    if not pictures:
        raise nothing_in(paths, passed, errors)
    return pictures


def only_pictures(files: Iterable[PictureFile], passed: PassedOver) -> Iterator[PictureFile]:
    """Gives the files that may be pictures, and reads the beginning of those that may be not."""
    for file in files:
        try:
            kind = None if file.is_sure else kind_by_head(file.path.name, file.read(HEAD_BYTES))
        except Unreadable:
            kind = None  # as it fails when it is sent, with the reason
        if kind is None:
            yield file
        else:
            passed.add(file.path, kind)


def nothing_in(
    paths: Iterable[Path], passed: PassedOver, errors: Sequence[OSError]
) -> CommandFailed:
    """Returns the error for paths that name no picture, with the reason as far as it is known."""
    reasons = [f"{error.filename}: {error.strerror}" for error in errors[:1]]
    reasons += [str(passed)] if passed else []
    told = f" ({'; '.join(reasons)})" if reasons else ""
    return CommandFailed(f"there is no picture in {', '.join(map(str, paths))}{told}")


class _Folder(NamedTuple):
    """A folder to look into, and where it lies below what the user named."""

    path: Path
    below: PurePath


class Walk:
    """One walk through what a user named: no path is given twice, and no folder entered twice.

    A folder that can be reached by a link as well is entered by its own path: links are followed
    at the end. What this keeps grows with the folders, and not with the files.
    """

    def __init__(
        self, paths: Iterable[Path], passed: PassedOver, on_error: Callable[[OSError], None]
    ) -> None:
        """Looks into no folder yet.

        Args:
            paths: Folders, files and STDIN; archives are left out. A file that is named is given
                whatever it is called, and not once more where its folder is named as well.
            passed: Counts what is not given.
            on_error: Called with the error of each folder that cannot be read.
        """
        self._paths = dict.fromkeys(paths)
        self._passed = passed
        self._on_error = on_error
        self._named = {_place(path) for path in self._paths if not path.is_dir()}
        self._entered: set[tuple[int, int]] = set()
        self._linked: list[_Folder] = []

    def files(self) -> Iterator[PictureFile]:
        """Gives the files that may be pictures by their names, in no order."""
        given = set[tuple[str, str]]()
        for path in self._paths:
            if path == STDIN:
                yield PictureFile(path, PurePath("stdin"), 0, lambda: sys.stdin.buffer)
            elif path.is_dir():
                yield from self._files_below(_Folder(path, PurePath()))
            elif not archive_type(path) and _place(path) not in given:
                given.add(_place(path))
                yield PictureFile(path, PurePath(path.name), size_of(path), _opener(path))
        while self._linked:
            yield from self._files_below(self._linked.pop(0))

    def _files_below(self, top: _Folder) -> Iterator[PictureFile]:
        folders = [top]
        while folders:
            here = folders.pop()
            try:
                if self._is_entered(here.path):
                    self._passed.add(here.path, "repeated folder")
                    continue
                # Not sorted: that would hold all names of a folder.
                with os.scandir(here.path) as entries:
                    yield from self._files_among(entries, here, folders)
            except OSError as error:
                self._on_error(error)

    def _is_entered(self, path: Path) -> bool:
        status = path.stat()
        place = (status.st_dev, status.st_ino)
        is_entered = place in self._entered
        self._entered.add(place)
        return is_entered

    def _files_among(
        self, entries: Iterable[os.DirEntry[str]], here: _Folder, folders: list[_Folder]
    ) -> Iterator[PictureFile]:
        real = os.path.realpath(here.path) if self._named else ""
        for entry in entries:
            if (real, entry.name) in self._named:
                continue
            path, below = here.path / entry.name, here.below / entry.name
            status = _status_of(entry)
            kind = _kind_unread(entry, status)
            if kind is not None:
                self._passed.add(path, kind)
            elif _is_folder(entry, status):
                (self._linked if entry.is_symlink() else folders).append(_Folder(path, below))
            else:
                n_bytes = status.st_size if status else 0
                is_sure = says_picture(entry.name)
                yield PictureFile(path, below, n_bytes, _opener(path), is_sure)


def size_of(path: Path) -> int:
    """Returns a file's size; 0 if that fails, as reading the file will tell why."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _kind_unread(entry: os.DirEntry[str], status: os.stat_result | None) -> str | None:
    """What an entry is that is passed over; None for folders, and files that may be pictures."""
    if _is_folder(entry, status):
        return kind_of_folder(entry.name)
    if status is not None:
        return special_kind(status.st_mode) or kind_by_name(entry.name)
    # What is called a picture is given all the same, and fails with the reason.
    is_lost = entry.is_symlink() and not says_picture(entry.name)
    return kind_by_name(entry.name) or ("dangling link" if is_lost else None)


def _is_folder(entry: os.DirEntry[str], status: os.stat_result | None) -> bool:
    if status is None:
        return entry.is_dir(follow_symlinks=False)
    return stat.S_ISDIR(status.st_mode)


def _status_of(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:
        return None  # a link that leads nowhere, or it is gone by now


def _is_readable(file: PictureFile) -> bool:
    try:
        file.read(1)
    except Unreadable:
        return False
    return True


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    return partial(open_regular, path)


def _place(path: Path) -> tuple[str, str]:
    """Where a file lies, whatever links its folder is reached by, and its name there."""
    return os.path.realpath(path.parent), path.name
