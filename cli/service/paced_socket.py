"""A client's connection, on which nobody waits long for a client that is slow."""

from __future__ import annotations

import contextlib
import errno
import math
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# A network that was changed, or a disk that wakes up, takes some seconds.
PATIENCE_S = 20.0
# Apache's mod_reqtimeout takes 500 by default. A modem of 1991 had 1,800.
LEAST_BYTES_PER_S = 1024
# A piece that is sent with all of the patience keeps the least rate.
_PIECE_BYTES = int(PATIENCE_S * LEAST_BYTES_PER_S)


class PacedSocket(socket.socket):
    """Waits for its client only so long in all: each byte that comes or goes earns some time.

    Only the time counts in which the client is waited for. What a client has earned is never more
    than its patience, so that after a gigabyte it cannot stand still for hours.
    """

    def __init__(self, accepted: socket.socket) -> None:
        """Takes over a connection.

        Args:
            accepted: The connection; it is no longer usable by itself.
        """
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self.grant()

    def grant(self, patience_s: float = PATIENCE_S) -> None:
        """Begins a request: it has this much patience for each way."""
        self._coming, self._going = _Allowance(patience_s), _Allowance(patience_s)

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receives.

        Raises:
            TimeoutError: The client is too slow. From then on this is raised at once.
        """
        self._coming.left_s()
        try:
            received = super().recv(bufsize, flags | socket.MSG_DONTWAIT)
        except BlockingIOError:
            with self._waiting(self._coming):
                received = super().recv(bufsize, flags)
        self._coming.earn(len(received))
        return received

    def sendall(self, data: bytes, flags: int = 0, /) -> None:  # type: ignore[override]
        """Sends.

        Raises:
            BrokenPipeError: The client reads too slowly: it is as good as gone.
        """
        try:
            n_sent = self._send_now(data, flags)
            for start in range(n_sent, len(data), _PIECE_BYTES):
                piece = data[start : start + _PIECE_BYTES]
                with self._waiting(self._going):
                    super().sendall(piece, flags)
                self._going.earn(len(piece))
        except TimeoutError as error:
            raise BrokenPipeError(errno.EPIPE, "the client does not read its answer") from error

    def _send_now(self, data: bytes, flags: int) -> int:
        """Sends what can be sent at once, as nearly always all can."""
        try:
            n_sent = super().send(data, flags | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        self._going.earn(n_sent)
        return n_sent

    @contextlib.contextmanager
    def _waiting(self, allowance: _Allowance) -> Iterator[None]:
        own_timeout_s = self.gettimeout()
        if own_timeout_s == 0:  # it does not wait
            yield
            return
        self.settimeout(min(own_timeout_s or math.inf, allowance.left_s()))
        began_at = time.monotonic()
        try:
            yield
        finally:
            allowance.spend(time.monotonic() - began_at)
            self.settimeout(own_timeout_s)


class _Allowance:
    def __init__(self, patience_s: float) -> None:
        self._patience_s = self._left_s = patience_s

    def left_s(self) -> float:
        if self._left_s <= 0:
            raise TimeoutError("The client is too slow.")
        return self._left_s

    def spend(self, waited_s: float) -> None:
        self._left_s -= waited_s

    def earn(self, n_bytes: int) -> None:
        self._left_s = min(self._patience_s, self._left_s + n_bytes / LEAST_BYTES_PER_S)
