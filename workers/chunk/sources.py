"""Fetches the URIs of a listing: files below allowed roots, pictures on allowed hosts."""

from __future__ import annotations

import os
import ssl
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, unquote_to_bytes, urlsplit

import httpcore

from twinlens.shared.errors import EmptyPicture, PayloadTooLarge, SourceFailed, SourceRefused
from twinlens.shared.origins import allowed_origin, origin_of
from twinlens.workers.network import (
    LATE,
    NETWORK_ERRORS,
    CheckedNetwork,
    deadline,
    reason_of,
    seconds_left,
    url_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from twinlens.shared.settings import Settings

# Waits before each try. A host that is down for longer is left to the next delivery.
PAUSES_S = (0.0, 0.2, 0.8)
KEPT_CONNECTIONS = 16
KEPT_FOR_S = 5.0
MAX_NAME_CHARS = 255
READ_BYTES = 1024 * 1024

_HEADERS = [(b"Accept-Encoding", b"identity"), (b"User-Agent", b"twinlens")]
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a FIFO would wait for someone to write into it.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Sources:
    """Fetches what a listing may name. Threads share one."""

    def __init__(self, settings: Settings) -> None:
        self._roots = [Path(os.path.realpath(root)) for root in settings.allowed_roots]
        self._origins = set(map(allowed_origin, settings.allowed_hosts))
        self._max_bytes = settings.max_picture_bytes
        self._limit_s = settings.fetch_timeout_s
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl.create_default_context(),
            max_connections=None,
            max_keepalive_connections=KEPT_CONNECTIONS,
            keepalive_expiry=KEPT_FOR_S,
            network_backend=CheckedNetwork(settings.allowed_networks),
        )

    def close(self) -> None:
        """Closes the connections that were kept open."""
        self._pool.close()

    def fetch(self, uri: str) -> bytes:
        """Reads a picture.

        Raises:
            SourceRefused: The settings do not allow it, or it redirects.
            SourceFailed: It does not exist, or cannot be read.
            PayloadTooLarge: It is over the size limit.
            EmptyPicture: It has no bytes.
        """
        parts = _split(uri)
        if parts.scheme == "file":
            return self._read_file(parts)
        if parts.scheme == "https":
            with deadline(self._limit_s):
                return self._download(parts)
        raise SourceRefused("Only file: and https: are supported.")

    def _read_file(self, parts: SplitResult) -> bytes:
        name = unquote(parts.path.rpartition("/")[2])[:MAX_NAME_CHARS]
        root, steps = self._locate(parts, name)
        try:
            return self._read_descriptor(_open_below(root, steps), name)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise SourceFailed(f"The file {name!r} cannot be read: {reason}.") from None

    def _read_descriptor(self, file: int, name: str) -> bytes:
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise SourceRefused(f"{name!r} is not a regular file.")
            return self._join(iter(lambda: os.read(file, READ_BYTES), b""))
        finally:
            os.close(file)

    def _locate(self, parts: SplitResult, name: str) -> tuple[Path, Sequence[str]]:
        """Returns an allowed root, and the path below it in steps, with all links followed."""
        path = os.fsdecode(unquote_to_bytes(parts.path))
        if parts.netloc.lower() in {"", "localhost"} and path.startswith("/") and "\0" not in path:
            # `..` is resolved as in RFC 3986, before any link is followed.
            real = Path(os.path.realpath(os.path.normpath(path)))
            for root in self._roots:
                if real.is_relative_to(root):
                    return root, real.relative_to(root).parts
        # The same words whether it exists or not.
        raise SourceRefused(f"The file {name!r} is not below any of TWINLENS_ALLOWED_ROOTS.")

    def _download(self, parts: SplitResult) -> bytes:
        origin = origin_of(parts)
        if origin not in self._origins:
            shown = origin.authority
            raise SourceRefused(f"The host {shown!r} is not one of TWINLENS_ALLOWED_HOSTS.")
        host, url, reason = origin.host, url_of(parts), LATE
        for pause_s in PAUSES_S:
            if pause_s >= seconds_left():
                break
            time.sleep(pause_s)
            try:
                return self._get(url, host)
            except _Busy as error:
                reason = str(error)
            except NETWORK_ERRORS as error:
                reason = reason_of(error)
        raise SourceFailed(f"The host {host!r} {reason}.")

    def _get(self, url: httpcore.URL, host: str) -> bytes:
        with self._pool.stream("GET", url, headers=_HEADERS) as response:
            _check_status(response.status, host)
            for key, value in response.headers:
                if key.lower() == b"content-length":
                    self._check_size(int(value))
            return self._join(response.iter_stream())

    def _join(self, pieces: Iterable[bytes]) -> bytes:
        content = bytearray()
        for piece in pieces:
            content += piece
            self._check_size(len(content))
        if not content:
            raise EmptyPicture("The file has no bytes.")
        return bytes(content)

    def _check_size(self, n_bytes: int) -> None:
        if n_bytes > self._max_bytes:
            raise PayloadTooLarge(f"The picture has more than {self._max_bytes} bytes.")


class _Busy(Exception):
    """A status that may change in a moment."""


def _check_status(status: int, host: str) -> None:
    answer = f"answered with status {status}"
    if status == 429 or status >= 500:
        raise _Busy(answer)
    if 300 <= status < 400:
        raise SourceRefused(f"The host {host!r} redirects; list the final address.")
    if status != 200:
        raise SourceFailed(f"The host {host!r} {answer}.")


def _split(uri: str) -> SplitResult:
    try:
        uri.encode()
        parts = urlsplit(uri)
        origin_of(parts)
    except ValueError:
        raise SourceRefused("The URI cannot be read.") from None
    return parts


def _open_below(root: Path, steps: Sequence[str]) -> int:
    """Opens a file step by step, following no link, not even one that was put there since."""
    folder = os.open(root, _FOLDER)
    try:
        for step in steps[:-1]:
            inner = os.open(step, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(steps[-1] if steps else ".", _FILE, dir_fd=folder)
    finally:
        os.close(folder)
