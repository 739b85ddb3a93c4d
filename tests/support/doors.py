"""A way to a server that can be shut or go silent, while clients are connected through it."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Door:
    """Passes connections to a port of 127.0.0.1 on to a Unix socket. Open at first."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._passes = threading.Event()
        self._passes.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        # Told all that clients send, before it is passed on.
        self.on_sent: Callable[[bytes], None] = _ignore
        self._start()

    def shut(self) -> None:
        """Breaks all connections off, and refuses new ones."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._listener.close()
        self._thread.join()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._passes.set()

    def hush(self) -> None:
        """Takes connections and bytes, and says nothing."""
        self._passes.clear()

    def freeze(self) -> None:
        """Says nothing more on the connections that there are; new ones are passed on."""
        with self._lock:
            before, self._passes = self._passes, threading.Event()
            self._passes.set()
        before.clear()

    def open(self) -> None:
        """Passes on again; what was sent meanwhile as well."""
        self._passes.set()
        if not self._thread.is_alive():
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._start()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._held(client), self._held(socket.socket(socket.AF_UNIX)) as server:
            try:
                server.connect(self._target)
            except OSError:
                return
            back = threading.Thread(target=self._pass, args=(server, client, _ignore), daemon=True)
            back.start()
            self._pass(client, server, self._tell)
            back.join()

    def _tell(self, sent: bytes) -> None:
        self.on_sent(sent)

    def _pass(
        self, source: socket.socket, sink: socket.socket, tell: Callable[[bytes], None]
    ) -> None:
        passes = self._passes
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                tell(piece)
                passes.wait()
                sink.sendall(piece)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _held(self, connection: socket.socket) -> Iterator[socket.socket]:
        with self._lock:
            self._connections.add(connection)
        try:
            yield connection
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()


def _ignore(_: bytes) -> None:
    pass


@contextlib.contextmanager
def door_to(url: str) -> Iterator[Door]:
    """Puts a door before a server on a Unix socket, named by its URL."""
    door = Door(urlsplit(url).path)
    try:
        yield door
    finally:
        door.shut()
