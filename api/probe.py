"""Whether a server answers at all: one connection, to notice at once that a part is down.

The API has no Milvus client, and needs none to know that nothing listens at its address.
"""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

# A server on the same network accepts within milliseconds; a caller should not wait for more.
PROBE_TIMEOUT_S = 0.5
MILVUS_PORT = 19530
HTTPS_PORT = 443


def address_of(uri: str) -> tuple[str, int]:
    """Returns host and port of a Milvus URI.

    >>> address_of("http://milvus:19531")
    ('milvus', 19531)
    >>> address_of("https://cluster.example")
    ('cluster.example', 443)
    >>> address_of("localhost")
    ('localhost', 19530)
    """
    parts = urlsplit(uri if "//" in uri else f"//{uri}")
    default = HTTPS_PORT if parts.scheme == "https" else MILVUS_PORT
    return parts.hostname or "", parts.port or default


def is_listening(uri: str, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Returns whether the host and port of a URI, or its Unix socket, accept a connection."""
    parts = urlsplit(uri)
    try:
        if parts.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(timeout_s)
                connection.connect(parts.path)
        else:
            socket.create_connection(address_of(uri), timeout=timeout_s).close()
    except OSError:
        return False
    return True
