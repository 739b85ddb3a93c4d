"""The blob store, the source of truth: pictures by content, manifests, journals, libraries."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import BinaryIO

# A file's fsync waits for the disk, not for the processor: this many at once let the
# file system write them in one commit.
N_SYNC_THREADS = 16
# A file's time is that of the last tick of the kernel's clock: up to 10 ms ago.
CLOCK_TICK_S = 0.01
# Of a library, an image or a job. A name of one file, never a way to another folder.
_ID = re.compile("[A-Za-z0-9_-][A-Za-z0-9._-]*")


def image_id_of(data: bytes) -> str:
    """Returns the id of a picture: lower-case hex SHA-256 of its bytes."""
    return hashlib.sha256(data).hexdigest()


def image_key(library_id: str, image_id: str) -> str:
    """Returns where a picture is kept. Each library has its own copy, so that removal is local."""
    _check_ids(library_id, image_id)
    return f"images/{library_id}/{image_id[:2]}/{image_id}"


def thumbnail_key(library_id: str, image_id: str) -> str:
    _check_ids(library_id, image_id)
    return f"thumbnails/{library_id}/{image_id[:2]}/{image_id}.jpg"


def manifest_key(job_id: str, chunk: int) -> str:
    _check_ids(job_id)
    return f"manifests/{job_id}/{chunk:06d}.jsonl"


def cancelled_key(job_id: str) -> str:
    """Returns where it is kept that a job was cancelled, beside its manifests."""
    _check_ids(job_id)
    return f"manifests/{job_id}/cancelled"


def journal_key(library_id: str) -> str:
    _check_ids(library_id)
    return f"journal/{library_id}.jsonl"


def library_key(library_id: str) -> str:
    """Returns where a library's record is kept."""
    _check_ids(library_id)
    return f"libraries/{library_id}.json"


def _check_ids(*ids: str) -> None:
    """Refuses what would lead to another file: ids are read from Redis, where others may write.

    Raises:
        ValueError: One is no id.
    """
    for one in ids:
        if not _ID.fullmatch(one):
            raise ValueError(f"{one!r} is no id")


class BlobStore:
    """Files under one directory, written whole or not at all."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, key: str) -> BinaryIO:
        """Opens a blob for reading.

        Raises:
            FileNotFoundError: There is no such blob.
        """
        return (self._root / key).open("rb")

    def get(self, key: str) -> bytes:
        """Reads a blob whole.

        Raises:
            FileNotFoundError: There is no such blob.
        """
        return (self._root / key).read_bytes()

    def put(self, key: str, data: bytes) -> None:
        """Writes a blob; when this returns, it survives a power cut."""
        with self.batch() as batch:
            batch.put(key, data)

    def replace(self, key: str, data: bytes) -> None:
        """Writes what is not named by its content; when this returns, it survives a power cut."""
        with self.batch() as batch:
            batch.replace(key, data)

    def append(self, key: str, lines: Iterable[str]) -> None:
        """Adds lines to a file; when this returns, they survive a power cut.

        What was cut off before, by a full disk say, is a line of its own.
        """
        with self.batch() as batch:
            batch.append(key, "\n".join(("", *lines, "")).encode())

    def rewrite(self, key: str, write: Callable[[Iterator[bytes], BinaryIO], None]) -> bool:
        """Writes a file anew to which lines are added. Those that are added meanwhile come behind.

        Args:
            key: The file.
            write: Writes what is to stand in place of the lines that it is given.

        Returns:
            Whether that was done: not if the file is removed or written anew meanwhile, nor where
            folders cannot be locked, as in some network's file systems.

        Raises:
            FileNotFoundError: There is no such file.
            OSError: The disk does not take it; the file is as it was.
        """
        path = self._root / key
        with path.open("rb") as old:
            with _held(path.parent, fcntl.LOCK_EX) as is_held:  # nobody has written half a line
                n_bytes = os.fstat(old.fileno()).st_size
            if not is_held:
                return False
            with _part(path) as (new, temporary):
                write(_lines(old, n_bytes), new)
                new.seek(0, os.SEEK_END)
                _flush(new)
                with _held(path.parent, fcntl.LOCK_EX):
                    if not _is_file(path, old):
                        return False
                    old.seek(n_bytes)
                    shutil.copyfileobj(old, new)
                    _flush(new)
                    temporary.replace(path)
        _fsync(path.parent)
        return True

    def size(self, key: str) -> int:
        """Returns how many bytes a blob has; 0 if it is not there."""
        try:
            return (self._root / key).stat().st_size
        except FileNotFoundError:
            return 0

    def names(self, folder: str) -> list[str]:
        """Returns the names in a folder, in order; none where there is no such folder."""
        try:
            names = os.listdir(self._root / folder)  # noqa: PTH208 (a million names, and no more)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if not name.startswith("."))

    def touched_at(self, key: str) -> float | None:
        """Returns when a blob was put last, as Unix time in seconds; None if it is not there."""
        try:
            return (self._root / key).stat().st_mtime
        except FileNotFoundError:
            return None

    def touch(self, key: str) -> None:
        """Renews a blob's time, as if it were put again; if it is not there, does nothing."""
        path = self._root / key
        with contextlib.suppress(FileNotFoundError), _held(path.parent, fcntl.LOCK_SH):
            os.utime(path)

    def batch(self) -> BlobBatch:
        """Returns a writer of many blobs, durable when its `with` block ends."""
        return BlobBatch(self._root)

    def library_ids(self) -> set[str]:
        """Returns the ids of the libraries that have pictures."""
        try:
            return {folder.name for folder in (self._root / "images").iterdir()}
        except FileNotFoundError:
            return set()

    def delete_library(self, library_id: str) -> None:
        """Removes all that is kept of a library. Several may do so at once.

        Raises:
            OSError: Something cannot be removed, or is being written; to be done again.
            ValueError: It is no id.
        """
        self.delete(library_key(library_id))
        self.delete(journal_key(library_id))
        for kind in ("images", "thumbnails"):
            folder = self._root / kind / library_id
            while folder.is_dir():
                with contextlib.suppress(FileNotFoundError):  # another was quicker
                    shutil.rmtree(folder)

    def delete(self, key: str, *, unless_touched_since: float | None = None) -> None:
        """Removes a blob, if it exists.

        Args:
            key: The blob.
            unless_touched_since: Unix time in seconds. A blob that was put again after that is
                kept: somebody else was promised that it is stored.
        """
        path = self._root / key
        with contextlib.suppress(FileNotFoundError), _held(path.parent, fcntl.LOCK_EX):
            if unless_touched_since is None or (
                path.stat().st_mtime <= unless_touched_since - CLOCK_TICK_S
            ):
                path.unlink()

    def delete_manifests(self, job_id: str) -> None:
        """Removes what is kept of a job."""
        _check_ids(job_id)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._root / "manifests" / job_id)


@contextlib.contextmanager
def _held(folder: Path, how: int) -> Iterator[bool]:
    """Keeps others from removing what is in a folder, or from putting it again or adding to it.

    Who removes a blob looks at its time first, and who puts it again may only renew that.

    Yields:
        Whether they are kept from it: a network's file system may lock no folders.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        is_held = False
        with contextlib.suppress(OSError):
            fcntl.flock(handle, how)
            is_held = True
        yield is_held
    finally:
        os.close(handle)


@contextlib.contextmanager
def _part(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Yields a new file, and its path, to take another's place; it goes if it does not."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file, temporary
    finally:
        temporary.unlink(missing_ok=True)


def _is_file(path: Path, file: BinaryIO) -> bool:
    """Tells if a path still leads to an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _lines(file: BinaryIO, n_bytes: int) -> Iterator[bytes]:
    """Yields the lines of a file's first bytes."""
    while file.tell() < n_bytes:
        yield file.readline()


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


class BlobBatch:
    """Writes many blobs, then syncs them together: files first, then their directories."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._written: list[Path] = []
        self._folders: set[Path] = set()
        self._pool = ThreadPoolExecutor(N_SYNC_THREADS, thread_name_prefix="blob-sync")

    def __enter__(self) -> Self:
        return self

    def put(self, key: str, data: bytes) -> None:
        """Writes a blob, or only renews its time if it already exists with this size."""
        path = self._place(key)
        with _held(path.parent, fcntl.LOCK_SH):
            try:
                if path.stat().st_size == len(data):
                    os.utime(path)
                    self._written.append(path)
                    return
            except FileNotFoundError:
                pass
            self._write(path, data)

    def replace(self, key: str, data: bytes) -> None:
        """Writes a file in place of the one that is there, if there is one."""
        self._write(self._place(key), data)

    def append(self, key: str, data: bytes) -> None:
        """Adds to the end of a file."""
        path = self._place(key)
        with _held(path.parent, fcntl.LOCK_SH), path.open("ab", buffering=0) as file:
            n_written = file.write(data)
            if n_written < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self._written.append(path)

    def _place(self, key: str) -> Path:
        """Returns a file's path; its folders are there, and synced with it."""
        path = self._root / key
        # Whoever made these folders, or wrote the blob, may not have synced them yet.
        self._folders.update(self._root / folder for folder in PurePath(key).parents)
        self._make_folder(path.parent)
        return path

    def _write(self, path: Path, data: bytes) -> None:
        with _part(path) as (file, temporary):
            file.write(data)
            file.close()
            temporary.replace(path)
        self._written.append(path)

    def sync(self) -> None:
        """Waits until all that was put so far is on the disk."""
        self._sync(self._written)
        self._sync(self._folders)
        self._written.clear()
        self._folders.clear()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.sync()
        finally:
            self._pool.shutdown()

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        # A new folder is an entry in its parent, which must be synced as well.
        self._folders.add(folder.parent)
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)

    def _sync(self, paths: Iterable[Path]) -> None:
        for _ in self._pool.map(_fsync, paths):
            pass


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
