"""Gunicorn's worker of threads, of which clients that are slow hold no more than their share.

A head is read without a thread, so that what is asked is known before a thread is taken: health has
threads of its own, and requests with a body, which may come slowly, leave threads to all others.
"""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from selectors import EVENT_READ
from typing import Any, Literal, NamedTuple

from gunicorn import util
from gunicorn.http import errors as unread
from gunicorn.http import get_parser
from gunicorn.util import write_nonblock
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from twinlens.cli.service.paced_socket import PATIENCE_S, PacedSocket
from twinlens.shared.answers import ProblemDetails
from twinlens.shared.errors import Problem, QueueFull

ThreadKind = Literal["health", "body", "plain"]

# Those that wait for a job or follow one are among both of the latter: see api/waiting.py.
N_THREADS: dict[ThreadKind, int] = {"health": 4, "body": 128, "plain": 96}
# From the first byte of a head to its last; a client sends it at once.
HEAD_S = 10.0
# For an answer that fits into the kernel's buffer.
HEALTH_S = 1.0
# As long as a request waits for a thread; then it is sent away.
QUEUE_S = 5.0
RETRY_AFTER_S = 5
# No client sends more; gunicorn would take 800 KB.
MAX_HEAD_BYTES = 64 * 1024
READ_BYTES = 64 * 1024
MAX_UNREAD_BYTES = 1024 * 1024

_HEAD_END = b"\r\n\r\n"
_ASKS_HEALTH = re.compile(rb"(?:GET|HEAD) /(?:livez|readyz)[ ?]")
_HAS_BODY = re.compile(rb"\r\n(?:content-length|transfer-encoding)[ \t]*:", re.IGNORECASE)

# Of requests that are not read; all others are 400.
_STATUSES: dict[type[Exception], HTTPStatus] = {
    unread.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    unread.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    unread.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    unread.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
}


def kind_of(head: bytes) -> ThreadKind:
    """Returns which threads serve a request.

    Args:
        head: All of it, and what came with it.
    """
    fields, _, behind = head.partition(_HEAD_END)
    if _HAS_BODY.search(fields):
        return "body"
    # Behind one request there may be a thousand, whose answers nobody reads.
    return "health" if _ASKS_HEALTH.match(fields) and not behind else "plain"


class _Connection(TConn):  # type: ignore[misc]  # gunicorn ships no types
    """A connection, and what has come of the next request."""

    def __init__(self, worker: HttpWorker, client: Any, address: Any, server: Any) -> None:
        super().__init__(worker.cfg, PacedSocket(client), address, server)
        self.parser = get_parser(self.cfg, self.sock, address)
        self.data_ready = True  # it gets a thread only then
        self.head = b""
        self.kind: ThreadKind = "plain"

    def close(self, graceful: bool = False) -> None:  # noqa: ARG002 (gunicorn's)
        """Closes; what lingers has done so in its own thread, where it holds nobody else up."""
        util.close(self.sock)


class _Queued(NamedTuple):
    until: float
    connection: _Connection
    future: Future[bool]


class _Pools(dict[ThreadKind, ThreadPoolExecutor]):
    def __init__(self) -> None:
        super().__init__(
            (kind, ThreadPoolExecutor(n, thread_name_prefix=kind)) for kind, n in N_THREADS.items()
        )

    def shutdown(self, *, wait: bool) -> None:
        for pool in self.values():
            pool.shutdown(wait=wait)


class HttpWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn ships no types
    """Serves; and answers with a problem what cannot be read as a request, which no app sees."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._queued: deque[_Queued] = deque()

    def get_thread_pool(self) -> _Pools:
        """Returns the threads of each kind; gunicorn shuts them down."""
        return _Pools()

    def accept(self, listener: Any) -> None:
        """Takes a connection. It gets a thread once its head is there."""
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            client, address = listener.accept()
            connection = _Connection(self, client, address, listener.getsockname())
            self.nr_conns += 1
            self._make_room()
            self._await_head(connection)

    def on_pending_socket_readable(self, conn: _Connection, client: Any) -> None:
        """Reads what has come of a head."""
        if _read_head(conn):
            self.poller.unregister(client)
            self.pending_conns.remove(conn)
            self._begin(conn)

    def on_client_socket_readable(self, conn: _Connection, client: Any) -> None:
        """Reads the next request of a connection that was kept."""
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        if _read_head(conn):
            self._begin(conn)
        else:
            self._await_head(conn)

    def enqueue_req(self, conn: _Connection) -> None:
        """Gives a request to the threads of its kind."""
        conn.kind = kind_of(conn.head)
        conn.sock.grant(HEALTH_S if conn.kind == "health" else PATIENCE_S)
        conn.parser.unreader.unread(conn.head)
        conn.head = b""
        future = self.tpool[conn.kind].submit(self.handle, conn)
        self._queued.append(_Queued(time.monotonic() + QUEUE_S, conn, future))
        future.add_done_callback(
            lambda one: self.method_queue.defer(self.finish_request, conn, one)
        )

    def handle(self, conn: _Connection) -> bool:
        """Serves a request, in a thread.

        Returns:
            Whether its connection is kept.
        """
        is_kept = bool(super().handle(conn))
        if not is_kept and conn.kind != "health":
            # What the client still sends would make the kernel throw our answer away.
            util.close_graceful(conn.sock)
        return is_kept

    def finish_request(self, conn: _Connection, fs: Future[bool]) -> None:
        """Waits for the next request, or closes."""
        if fs.cancelled() or fs.exception() is not None or not fs.result():
            self._drop(conn)
            return
        conn.head = conn.parser.unreader.take_buffered()
        if _HEAD_END in conn.head:
            self.enqueue_req(conn)
        elif conn.head:
            self._await_head(conn)
        else:
            self._keep(conn)

    def murder_pending(self) -> None:
        """Closes what has not sent its head in time, and sends away what found no thread."""
        super().murder_pending()
        self._tend_queue(time.monotonic())

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Answers a request that cannot be read; gunicorn would in HTML."""
        if not isinstance(exc, unread.ParseException):
            super().handle_error(req, client, addr, exc)
            return
        # What of it cannot be read is not for the log: it may have a key in it.
        self.log.warning("a request cannot be read: %s", type(exc).__name__)
        status = _STATUSES.get(type(exc), HTTPStatus.BAD_REQUEST)
        try:
            write_nonblock(client, _unread_answer(_unread_problem(status, str(exc))))
        except OSError:
            self.log.debug("the client did not wait for its answer")

    def _cap_keepalive(self, deadline: float) -> None:
        """Closes, as it stops, what has sent nothing yet."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def _await_head(self, conn: _Connection) -> None:
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + HEAD_S
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def _begin(self, conn: _Connection) -> None:
        """Serves what was asked, if it came whole."""
        if _HEAD_END in conn.head:
            self.enqueue_req(conn)
            return
        if len(conn.head) > MAX_HEAD_BYTES:
            error = unread.LimitRequestHeaders if b"\r\n" in conn.head else unread.LimitRequestLine
            detail = f"The head of the request has more than {MAX_HEAD_BYTES} bytes."
            self._refuse(conn, _unread_problem(_STATUSES[error], detail))
        self._drop(conn)

    def _keep(self, conn: _Connection) -> None:
        conn.sock.setblocking(False)
        conn.set_timeout()
        if not self.alive:
            conn.timeout = min(conn.timeout, time.monotonic() + STOP_KEEPALIVE_LINGER)
        self.keepalived_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_client_socket_readable, conn))

    def _drop(self, conn: _Connection) -> None:
        self.nr_conns -= 1
        conn.close()

    def _make_room(self) -> None:
        """Ends, of the connections that wait, the one that has waited longest."""
        if self.nr_conns < self.worker_connections:
            return
        for waiting in (self.pending_conns, self.keepalived_conns):
            if waiting:
                conn = waiting.popleft()
                self.poller.unregister(conn.sock)
                self._drop(conn)
                return
        if self._queued:
            self._tend_queue(self._queued[0].until)

    def _tend_queue(self, now: float) -> None:
        """Sends away what has waited for a thread for too long, and forgets what has one."""
        while self._queued:
            until, conn, future = self._queued[0]
            if not (future.running() or future.done()):
                if until > now:
                    return
                if future.cancel():
                    self._refuse(conn, QueueFull("All threads are taken.").to_problem())
            self._queued.popleft()

    def _refuse(self, conn: _Connection, problem: Problem) -> None:
        """Answers without a thread, as far as that can be done at once."""
        conn.sock.setblocking(False)
        with contextlib.suppress(OSError):
            conn.sock.recv(MAX_UNREAD_BYTES)  # else the kernel throws our answer away
        with contextlib.suppress(OSError):
            conn.sock.send(_unread_answer(problem))


def _read_head(conn: _Connection) -> bool:
    """Reads what has come, and returns whether more is not to be waited for."""
    try:
        piece = conn.sock.recv(READ_BYTES)
    except BlockingIOError:
        return False
    except OSError:
        return True
    conn.head += piece
    return not piece or _HEAD_END in conn.head or len(conn.head) > MAX_HEAD_BYTES


def _unread_problem(status: HTTPStatus, detail: str) -> Problem:
    return Problem(type="about:blank", title=status.phrase, status=status, detail=detail)


def _unread_answer(problem: Problem) -> bytes:
    request_id = uuid.uuid4().hex
    body = ProblemDetails(
        **problem.model_dump(exclude={"retryable"}), instance="", request_id=request_id
    ).model_dump_json()
    content = body.encode()
    head = [
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}",
        "Connection: close",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(content)}",
        f"X-Request-ID: {request_id}",
    ]
    if problem.retryable:
        head.append(f"Retry-After: {RETRY_AFTER_S}")
    return "\r\n".join((*head, "", "")).encode() + content
