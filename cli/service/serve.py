"""The API under gunicorn."""

from __future__ import annotations

import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication
from gunicorn.http import errors as unread
from gunicorn.util import write_nonblock
from gunicorn.workers.gthread import ThreadWorker

from twinlens.cli.service.addresses import check_host, check_port
from twinlens.shared.answers import ProblemDetails

if TYPE_CHECKING:
    from flask import Flask

    from twinlens.shared.settings import Settings

# A waiting request holds a thread for up to a minute, and needs nothing else meanwhile.
N_THREADS = 32
# Longer than clients keep a connection (httpx: 5 s): else one is closed just as it is used.
KEEP_ALIVE_S = 30
GRACE_S = 5

# Of requests that are not read; all others are 400.
_STATUSES: dict[type[Exception], HTTPStatus] = {
    unread.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    unread.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    unread.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    unread.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
}


def serve(settings: Settings) -> None:
    """Serves the API until a signal ends it.

    Raises:
        CommandRefused: The address may not be served, or its port is in use.
    """
    check_host(settings.host, unsafe_bind=settings.unsafe_bind)
    check_port(settings.host, settings.port)
    _Server(settings).run()


class _Server(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        for name, value in _gunicorn_options(self._settings).items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        from twinlens.api.wsgi import app  # noqa: PLC0415 (it reads the settings as it is imported)

        return app


class ProblemWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn ships no types
    """Answers with a problem what cannot be read as a request, which no app sees."""

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Answers a request that cannot be read; gunicorn would in HTML."""
        if not isinstance(exc, unread.ParseException):
            super().handle_error(req, client, addr, exc)
            return
        self.log.warning("a request cannot be read: %s", exc)
        status = _STATUSES.get(type(exc), HTTPStatus.BAD_REQUEST)
        try:
            write_nonblock(client, _unread_answer(status, str(exc)))
        except OSError:
            self.log.debug("the client did not wait for its answer")


def _unread_answer(status: HTTPStatus, detail: str) -> bytes:
    request_id = uuid.uuid4().hex
    body = ProblemDetails(
        type="about:blank",
        title=status.phrase,
        status=status,
        detail=detail,
        instance="",
        request_id=request_id,
        errors=[],
    ).model_dump_json()
    content = body.encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Connection: close",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(content)}",
        f"X-Request-ID: {request_id}",
    )
    return "\r\n".join((*head, "", "")).encode() + content


def _gunicorn_options(settings: Settings) -> dict[str, object]:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "bind": f"{host}:{settings.port}",
        "worker_class": ProblemWorker,
        "workers": 1,
        "threads": N_THREADS,
        # The app is there before the port is, and a crashed process is replaced in no time.
        "preload_app": True,
        "timeout": 120,
        "graceful_timeout": GRACE_S,
        "keepalive": KEEP_ALIVE_S,
        # It would be one file in the home directory for every service of this user.
        "control_socket_disable": True,
        "logconfig_dict": _log_config(settings.log_level),
    }


def _log_config(level: str) -> dict[str, object]:
    """Sends gunicorn's own records through the same formatter as the app's."""
    to_root: dict[str, object] = {"level": level, "handlers": [], "propagate": True}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "twinlens.shared.log.JsonFormatter"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {"gunicorn.error": to_root, "gunicorn.access": {**to_root, "propagate": False}},
    }
