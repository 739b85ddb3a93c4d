"""Where parts listen: which addresses are allowed, and which ports are free."""

from __future__ import annotations

import contextlib
import errno
import json
import random
import re
import shlex
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from twinlens.cli.errors import CommandRefused
from twinlens.shared.loopback import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twinlens.shared.settings import Settings

DEFAULT_URL = "http://127.0.0.1:8000"
# Below the ports that systems give to outgoing connections (from 32768 on Linux, 49152 on macOS).
# Above, a client that tries again while its server is down can be given that very port, connect
# to itself, and keep the server from ever coming back.
PORTS = range(20_000, 32_768)
CONNECT_TIMEOUT_S = 0.5
# Where `twinlens up` notes where its parts listen, in the data directory.
SERVICES_FILE = "services.json"
# As the URLs of every client take them unchanged.
_PLAIN = re.compile("[A-Za-z0-9._/-]+")


def check_host(settings: Settings) -> None:
    """Refuses to serve other machines before there is a key.

    Raises:
        CommandRefused: Other machines could reach the address, or it cannot be told if there is.
    """
    from twinlens.api.access.keyring import Keyring  # noqa: PLC0415 (it takes 100 ms)

    if is_loopback(settings.host):
        return
    try:
        has_keys = Keyring(settings.keys_dir).is_there()
    except OSError as error:
        folder = settings.keys_dir
        raise CommandRefused(f"cannot look for keys in {folder}: {error.strerror}") from error
    if not has_keys:
        raise CommandRefused(
            f"{settings.host} can be reached from other machines, and there is no key yet; use"
            " 127.0.0.1, or make a key with `twinlens keys create --scope admin --data-dir"
            f" {shlex.quote(str(settings.data_dir))}`"
        )


def check_port(host: str, port: int) -> None:
    """Refuses a port that cannot be listened on.

    Raises:
        CommandRefused: It is in use, not allowed, or no address of this machine.
    """
    try:
        is_taken = not is_free(host, port)
    except OSError as error:
        raise CommandRefused(f"cannot listen on {host} port {port}: {error.strerror}") from error
    if is_taken:
        raise CommandRefused(f"port {port} on {host} is in use; choose another with --port")


def is_free(host: str, port: int) -> bool:
    """Tells if nobody listens on a port, by connecting to it and by binding it.

    Raises:
        OSError: It cannot be bound for another reason.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # macOS lets one bind a loopback port of which another process listens on every address.
    try:
        with socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S):
            return False
    except OSError:
        pass
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: connections that were closed a moment ago don't count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def pick_port(host: str = "127.0.0.1", *, wanted: int | None = None) -> int:
    """Returns a free port: the wanted one, if it is free."""
    if wanted is not None and is_free(host, wanted):
        return wanted
    # Where two look at once, each begins elsewhere.
    for port in random.sample(PORTS, len(PORTS)):
        if is_free(host, port):
            return port
    raise CommandRefused(f"no port from {PORTS.start} to {PORTS.stop - 1} on {host} is free")


@contextlib.contextmanager
def private_sockets(data_dir: Path) -> Iterator[Path]:
    """Gives a folder for Unix sockets that nobody else on this machine may look into.

    It is one of the data directory, so that addresses stay the same. Where no socket can be there,
    because of the file system or a long path (108 bytes, on macOS 104), it is a temporary one.
    """
    folder = data_dir / "sockets"
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    if _takes_sockets(folder):
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="twinlens-") as temporary:
            yield Path(temporary)


def _takes_sockets(folder: Path) -> bool:
    probe = folder / "a-socket-of-any-part"
    if not _PLAIN.fullmatch(str(probe)):
        return False
    probe.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as one:
        try:
            one.bind(str(probe))
        except OSError:
            return False
    probe.unlink()
    return True


def with_noted_stores(settings: Settings) -> Settings:
    """Returns settings that name the stores of the `twinlens up` that has the data directory.

    What is set stays as it is set.
    """
    noted: object = None
    with contextlib.suppress(OSError, ValueError):
        noted = json.loads((settings.data_dir / SERVICES_FILE).read_text(encoding="utf-8"))
    if not isinstance(noted, dict):
        return settings
    names = {"redis_url", "milvus_uri"} - settings.model_fields_set
    return settings.model_copy(update={name: noted[name] for name in names & noted.keys()})


def url_of(host: str, port: int) -> str:
    """Returns the URL of a service, for clients on this machine.

    >>> url_of("::1", 8000), url_of("0.0.0.0", 8000)
    ('http://[::1]:8000', 'http://127.0.0.1:8000')
    """
    reachable = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
