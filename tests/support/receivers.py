"""A real server on loopback that webhooks are sent to."""

from __future__ import annotations

import contextlib
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from standardwebhooks import Webhook
from support.paths import FIXTURES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CERTIFICATE = FIXTURES / "localhost.pem"
SECRET = "whsec_" + "aQ" * 16


@dataclass
class Receiver:
    """What it was told, and what it answers.

    Attributes:
        answers: A status each, or what is done in its place; the last one for good.
    """

    origin: str
    answers: list[int | Callable[[BaseHTTPRequestHandler], None]]
    told: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{self.origin}/hook?of=ours"

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it was told, each verified as its user would."""
        return [Webhook(SECRET).verify(body, headers) for headers, body in self.told]

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.told]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        self.told.append((dict(handler.headers), body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not isinstance(answer, int):
            answer(handler)
            return
        handler.send_response(answer)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        """Answers nothing until all is over."""
        handler.close_connection = True
        self.is_over.wait()


@contextlib.contextmanager
def running_receiver(port: int = 0, *, is_plain: bool = False) -> Iterator[Receiver]:
    """Runs one; by https, as `localhost`, unless it is plain."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def do_POST(self) -> None:
            receiver.answer(self)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = False  # so that leaving waits for every answer
        if not is_plain:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(CERTIFICATE)
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        scheme = "http" if is_plain else "https"
        receiver = Receiver(f"{scheme}://localhost:{server.server_port}", [200])
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield receiver
        finally:
            receiver.is_over.set()
            server.shutdown()
            thread.join()


def allowing(*receivers: Receiver) -> dict[str, Any]:
    """Returns the settings that allow them."""
    return {
        "webhook_hosts": [one.origin.removeprefix("https://") for one in receivers],
        "webhook_secret": SECRET,
        "allowed_networks": [ip_network("127.0.0.0/8"), ip_network("::1/128")],
    }
