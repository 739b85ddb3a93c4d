"""The API under gunicorn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunicorn.app.base import BaseApplication

from twinlens.cli.service.addresses import check_host, check_port
from twinlens.cli.service.http_worker import N_THREADS, HttpWorker

if TYPE_CHECKING:
    from flask import Flask

    from twinlens.shared.settings import Settings

# Longer than clients keep a connection (httpx: 5 s): else one is closed just as it is used.
KEEP_ALIVE_S = 30
GRACE_S = 5
MAX_CONNECTIONS = 600


def serve(settings: Settings) -> None:
    """Serves the API until a signal ends it.

    Raises:
        CommandRefused: The address may not be served, or its port is in use.
    """
    check_host(settings)
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


def _gunicorn_options(settings: Settings) -> dict[str, object]:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "bind": f"{host}:{settings.port}",
        "worker_class": HttpWorker,
        "workers": 1,
        "threads": sum(N_THREADS.values()),
        # With what each may have open, less than the 1,024 descriptors that are usual.
        "worker_connections": MAX_CONNECTIONS,
        # It would send large files without looking at how slowly they are read.
        "sendfile": False,
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
