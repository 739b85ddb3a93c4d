"""A backup's folder: files named by their content, written whole, and checked when read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from array import array
from typing import TYPE_CHECKING, get_args

import numpy as np
from pydantic import BaseModel, ValidationError

from twinlens.shared.blobs import BlobStore
from twinlens.shared.errors import BadBackup
from twinlens.shared.messages import now
from twinlens.workers.backup.layout import (
    FORMAT,
    HEAD,
    README,
    README_TEXT,
    BackupHead,
    Contents,
    FileKind,
    digest,
    key_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from twinlens.shared.blobs import BlobBatch

KINDS: tuple[FileKind, ...] = get_args(FileKind)
# At the top of a file system of its own.
_LOST_AND_FOUND = "lost+found"
# How files are called that are still being written.
_PART = ".part-"
# Of a name, so many hexadecimal digits: 8 bytes. Were two the same, a file would stay too long.
_KEPT_DIGITS = 16


class _FormatOnly(BaseModel):
    format: int


class BackupFolder:
    """Reads a backup. No link below its folder is followed."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    @property
    def root(self) -> Path:
        return self._root

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Keeps the backup from being written meanwhile.

        Raises:
            BadBackup: It is no backup, or one is being written there.
        """
        if not self._root.is_dir():
            raise BadBackup(f"There is no folder {self._root}.")
        with _locked(self._root, fcntl.LOCK_SH):
            self._check_folders()
            yield

    def head(self) -> BackupHead | None:
        """Returns which contents count; None where no backup was ever whole.

        Raises:
            BadBackup: It cannot be read, or a newer version has written it.
        """
        path = self._root / HEAD
        if not _is_there(path):
            return None
        text = _read(path)
        try:
            number = _FormatOnly.model_validate_json(text).format
            if number > FORMAT:
                raise BadBackup(
                    f"{path} says format {number}, and this version of Twinlens reads up to"
                    f" {FORMAT}: use a newer one."
                )
            return BackupHead.model_validate_json(text)
        except ValidationError:
            raise BadBackup(f"{path} cannot be read: it was changed or damaged.") from None

    def contents(self, head: BackupHead) -> Contents:
        """Reads what the backup has.

        Raises:
            BadBackup: It was changed or damaged.
        """
        try:
            return Contents.model_validate_json(self.read("contents", head.contents))
        except ValidationError as error:
            path = self._root / key_of("contents", head.contents)
            raise BadBackup(f"{path} cannot be read: {error.errors()[0]['msg']}.") from None

    def read(self, kind: FileKind, sha256: str) -> bytes:
        """Reads a file.

        Raises:
            BadBackup: It is missing, or was changed or damaged.
        """
        path = self._root / key_of(kind, sha256)
        if not _is_there(path):
            raise BadBackup(f"{path} is missing.")
        content = _read(path)
        if digest(content) != sha256:
            raise BadBackup(f"{path} was changed or damaged: its SHA-256 is not its name.")
        return content

    def _check_folders(self) -> None:
        for kind in KINDS:
            folder = self._root / kind
            if not os.path.lexists(folder):
                continue
            for one in (folder, *folder.iterdir()):
                if not stat.S_ISDIR(one.lstat().st_mode):
                    raise BadBackup(f"{one} is no folder of a backup; remove it.")


class BackupWriter(BackupFolder):
    """Writes a backup, into an empty folder or on top of an earlier one.

    What an earlier one has stays as it is until the new one is whole.
    """

    def __init__(self, root: Path, *, is_verifying: bool = False) -> None:
        """Names the folder.

        Args:
            root: Made where it is not there.
            is_verifying: Whether what is there already is read, and written again if damaged.
        """
        super().__init__(root)
        self._is_verifying = is_verifying
        self._kept = array("Q")
        self._batch: BlobBatch

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the folder for one backup.

        Raises:
            BadBackup: It has something else in it, or another backup is being written there.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        with _locked(self._root, fcntl.LOCK_EX), BlobStore(self._root).batch() as self._batch:
            self._check_ours()
            self._check_folders()
            self._batch.replace(README, README_TEXT.encode())
            yield

    def has(self, kind: FileKind, sha256: str, n_bytes: int | None = None) -> bool:
        """Tells if a file is there, whole as far as its size tells; then it is kept.

        Raises:
            BadBackup: It is no regular file.
        """
        path = self._root / key_of(kind, sha256)
        if not _is_there(path) or n_bytes not in (None, path.lstat().st_size):
            return False
        if self._is_verifying and digest(_read(path)) != sha256:
            path.unlink()
            return False
        self._keep(sha256)
        return True

    def put(self, kind: FileKind, content: bytes) -> str:
        """Writes a file, unless it is there. Returns its name."""
        sha256 = digest(content)
        if not self.has(kind, sha256, len(content)):
            self._batch.put(key_of(kind, sha256), content)
            self._keep(sha256)
        return sha256

    def sync(self) -> None:
        """Waits until all that was put so far is on the disk."""
        self._batch.sync()

    def finish(self, contents: Contents) -> None:
        """Makes the backup one of these contents, and removes what only earlier ones had."""
        sha256 = self.put("contents", contents.model_dump_json(indent=1).encode())
        self.sync()
        head = BackupHead(format=FORMAT, written_at=now(), contents=sha256)
        self._batch.replace(HEAD, head.model_dump_json(indent=1).encode())
        self.sync()
        self._prune()

    def _check_ours(self) -> None:
        names = {one.name for one in self._root.iterdir() if not one.name.startswith(_PART)}
        others = names - {*KINDS, README, _LOST_AND_FOUND}
        if others and not _is_there(self._root / HEAD):
            raise BadBackup(
                f"{self._root} is not empty, and no backup: there is {min(others)} in it. Name an"
                " empty folder, or one of an earlier backup."
            )

    def _keep(self, sha256: str) -> None:
        self._kept.append(int(sha256[:_KEPT_DIGITS], 16))

    def _prune(self) -> None:
        kept = np.unique(np.array(self._kept, np.uint64))
        for path in self._root.glob(f"{_PART}*"):
            path.unlink()
        for kind in KINDS:
            for folder in (self._root / kind).glob("*"):
                for path in folder.iterdir():
                    if not _is_among(kept, path.name):
                        path.unlink()


def _is_among(kept: np.ndarray[tuple[int], np.dtype[np.uint64]], name: str) -> bool:
    try:
        number = np.uint64(int(name[:_KEPT_DIGITS], 16))
    except ValueError:  # of a write that was broken off
        return False
    place = int(np.searchsorted(kept, number))
    return place < len(kept) and bool(kept[place] == number)


def _is_there(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise BadBackup(f"{path} is no regular file, so no part of a backup; remove it.")
    return True


def _read(path: Path) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:  # noqa: PTH123 (a descriptor)
        return file.read()


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Holds a folder, against other backups and restores.

    Raises:
        BadBackup: Another one holds it.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BadBackup(f"Another backup or restore is using {folder}; wait for it.") from None
    finally:
        os.close(handle)
