"""Connections to checked addresses only, each within a deadline.

A name is resolved once per connection, which goes to the address that was checked, so a name that
resolves to something else a moment later gains nothing.
"""

from __future__ import annotations

import socket
import time
from contextlib import contextmanager
from contextvars import ContextVar
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, quote

import httpcore

from twinlens.shared.errors import SourceRefused
from twinlens.shared.origins import origin_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator, Sequence

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# RFC 4291: everything else is loopback, link-local, site-local, multicast or not assigned.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
# RFC 3056: it ends at the IPv4 address inside, and no public host has only such an address now.
_6TO4 = IPv6Network("2002::/16")
# RFC 6052: what a network without IPv4 makes of a public IPv4 address.
_NAT64 = IPv6Network("64:ff9b::/96")

LATE = "did not answer in time"
NETWORK_ERRORS = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)

# What a request target may contain unescaped: all of printable ASCII.
_TARGET_CHARS = "".join(map(chr, range(0x21, 0x7F)))

_ends_at_s: ContextVar[float] = ContextVar("ends_at_s")


@contextmanager
def deadline(limit_s: float) -> Iterator[None]:
    """Limits the total time of what this thread does on the network within it."""
    token = _ends_at_s.set(time.monotonic() + limit_s)
    try:
        yield
    finally:
        _ends_at_s.reset(token)


def seconds_left() -> float:
    """Returns the time until the deadline; zero or less once it has passed."""
    return _ends_at_s.get() - time.monotonic()


def url_of(parts: SplitResult) -> httpcore.URL:
    """Returns a URL as it is asked for."""
    scheme, host, port = origin_of(parts)
    query = f"?{parts.query}" if parts.query else ""
    target = quote((parts.path or "/") + query, safe=_TARGET_CHARS)
    return httpcore.URL(scheme=scheme, host=host, port=port, target=target)


def reason_of(error: Exception) -> str:
    """Returns what a host did, of one of NETWORK_ERRORS."""
    if isinstance(error, httpcore.TimeoutException):
        return LATE
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "has no certificate that is valid for it"
    return "cannot be reached, or closed the connection"


def is_reachable(address: Address, allowed: Sequence[Network]) -> bool:
    """Returns whether an address is public, or in an allowed network.

    >>> is_reachable(ip_address("::ffff:10.0.0.1"), [])
    False
    """
    inner = _without_wrapping(address)
    if any(one in network for one in (address, inner) for network in allowed):
        return True
    if isinstance(inner, IPv6Address) and (inner not in _GLOBAL_UNICAST or inner in _6TO4):
        return False
    return inner.is_global and not inner.is_multicast


def _without_wrapping(address: Address) -> Address:
    """Returns the IPv4 address that a mapped or a NAT64 one stands for, else the address."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address


class CheckedNetwork(httpcore.NetworkBackend):
    """Opens httpcore's connections. Every address of a host must be reachable, or none is tried."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the deadline stands for all of httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connects to the first of a host's addresses that answers.

        Raises:
            SourceRefused: One of them is neither public nor allowed.
            NetworkError: None of them answers, or there is none.
            TimeoutException: The deadline has passed.
        """
        addresses = self._resolve(host, port)
        for n_left in range(len(addresses), 0, -1):
            try:
                # A dead address uses up its share of the time, not that of the ones after it.
                stream = self._sockets.connect_tcp(
                    addresses[-n_left], port, _timeout_s() / n_left, local_address, socket_options
                )
                return _TimedStream(stream)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if n_left == 1:
                    raise
        raise httpcore.ConnectError("The name has no address.")

    def _resolve(self, host: str, port: int) -> list[str]:
        # This cannot be cut short: the resolver's own limit applies, then the deadline is checked.
        try:
            resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError("The name cannot be resolved.") from error
        addresses = [str(address[0]) for *_, address in resolved]
        if not all(is_reachable(ip_address(address), self._allowed) for address in addresses):
            raise SourceRefused(
                f"The host {host!r} has an address that is neither public nor in one of"
                " TWINLENS_ALLOWED_NETWORKS."
            )
        return addresses


class _TimedStream(httpcore.NetworkStream):
    """Gives each step the time left until the deadline: a server that drips gains no time."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._stream.read(max_bytes, _timeout_s())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, _timeout_s())

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        try:
            limit_s = _timeout_s()
        except httpcore.TimeoutException:
            self.close()
            raise
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, limit_s))

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _timeout_s() -> float:
    left_s = seconds_left()
    if left_s <= 0:  # a socket takes 0 for "do not wait", and refuses less
        raise httpcore.ReadTimeout("The deadline has passed.")
    return left_s
