"""The real disk, and what a loss of power would leave of it."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
import threading
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest


class Disk:
    """Notes what is synced, and when: a file's bytes, and a directory's entries.

    All that is not synced is taken to be lost, for more is not promised; but what was there when
    this began is safe.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self._root = root
        self._contents: dict[int, bytes] = {}  # by inode
        self._entries: dict[int, dict[str, int]] = {}
        for path in (root, *root.rglob("*")):
            inode = path.stat().st_ino
            if path.is_dir():
                self._entries[inode] = {one.name: one.stat().st_ino for one in path.iterdir()}
            else:
                self._contents[inode] = path.read_bytes()
        self._lock = threading.Lock()
        self._open, self._fsync, self._replace = os.open, os.fsync, os.replace
        self.n_syncs = 0
        self.renamed: list[tuple[Path, Path]] = []
        self.fails_at: Literal["fsync", "replace"] | None = None
        # Called after each sync.
        self.look: Callable[[], object] = lambda: None
        monkeypatch.setattr(os, "open", self._open_and_note)
        monkeypatch.setattr(os, "fsync", self._fsync_and_note)
        monkeypatch.setattr(os, "replace", self._replace_and_note)

    def after_power_cut(self) -> dict[str, bytes]:
        """Returns the files that would be there, by their path below the root."""
        return dict(self._found(self._root.stat().st_ino, ""))

    def _found(self, folder: int, path: str) -> Iterator[tuple[str, bytes]]:
        for name, inode in self._entries.get(folder, {}).items():
            if inode in self._contents:
                yield path + name, self._contents[inode]
            yield from self._found(inode, f"{path}{name}/")

    def _open_and_note(self, path: Any, flags: int, *args: Any, **options: Any) -> int:
        handle = self._open(path, flags, *args, **options)
        if flags & os.O_CREAT:
            # An inode may have been another file's before.
            self._contents.pop(os.fstat(handle).st_ino, None)
        return handle

    def _fsync_and_note(self, handle: int) -> None:
        if self.fails_at == "fsync":
            raise OSError(errno.EIO, "the disk is broken")
        self._fsync(handle)
        status = os.fstat(handle)
        with self._lock:
            self.n_syncs += 1
            if stat.S_ISDIR(status.st_mode):
                with os.scandir(handle) as entries:
                    self._entries[status.st_ino] = {one.name: one.inode() for one in entries}
            else:
                self._contents[status.st_ino] = os.pread(handle, status.st_size, 0)
            self.look()

    def _replace_and_note(self, source: Any, target: Any) -> None:
        if self.fails_at == "replace":
            raise OSError(errno.ENOSPC, "the disk is full")
        self._replace(source, target)
        self.renamed.append((self._root / source, self._root / target))


@contextlib.contextmanager
def disk_with_room_for(n_bytes: int) -> Iterator[None]:
    """No file grows past so many bytes: what is longer is cut off in the middle of its write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
