"""Where a URL leads: its scheme, host and port, and which of them an operator allows."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

PORTS = {"https": 443, "http": 80}


class Origin(NamedTuple):
    """A scheme, a host and a port (RFC 6454)."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """The host, with its port where that is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS.get(self.scheme) else f"{host}:{self.port}"

    def __str__(self) -> str:
        """Returns it as the beginning of a URL."""
        return f"{self.scheme}://{self.authority}"


def origin_of(parts: SplitResult) -> Origin:
    """Returns the origin of a URL. A host has one form: in ASCII, in lower case, without its dot.

    Raises:
        ValueError: Its host or its port cannot be read.
    """
    host = (parts.hostname or "").removesuffix(".").encode("idna").decode().lower()
    port = PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
    return Origin(parts.scheme, host, port)


def allowed_origin(entry: str, *, may_be_plain: bool = False) -> Origin:
    """Reads what an operator allows: `host` or `host:port`, by https.

    >>> str(allowed_origin("Hooks.example:8443"))
    'https://hooks.example:8443'

    Args:
        entry: What is allowed.
        may_be_plain: Whether it may begin with `http://`, for that instead of https.

    Raises:
        ValueError: It is neither.
    """
    authority = entry.removeprefix("http://") if may_be_plain else entry
    scheme = "https" if authority == entry else "http"
    try:
        parts = urlsplit(f"{scheme}://{authority}")
        origin = origin_of(parts)
    except ValueError:
        origin = Origin(scheme, "", 0)
    if not origin.host or ":" in origin.host or "@" in entry or parts.netloc != authority:
        forms = "host, host:port or http://host:port" if may_be_plain else "host or host:port"
        raise ValueError(f"{entry!r} is not {forms}.")
    return origin
