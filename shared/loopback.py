"""Which addresses belong to this machine alone: safe to serve, and never behind a proxy."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Tells if an address can be reached from this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower().removesuffix(".") == "localhost"
    # Before Python 3.13, ::ffff:127.0.0.1 is not told to be one.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
