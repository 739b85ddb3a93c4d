"""What pages in a browser may ask, and what answers allow them.

Without keys, whoever reaches the port may do everything. So a page of another site must not reach
it through its visitor's browser: neither under a name that it has made resolve to this machine
(DNS rebinding), nor by a form or a script that sends without being able to read the answer.

Pages of the origins that a setting names may (CORS). With keys they have to send one: nothing that
a browser sends by itself, such as cookies, is ever asked for.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flask import Flask, Response, request

from twinlens.shared.errors import ForeignOrigin, UnknownHost

if TYPE_CHECKING:
    from twinlens.shared.settings import Settings

SAFE_METHODS = {"GET", "HEAD", "OPTIONS", "TRACE"}
# Source: OWASP's REST security cheat sheet, headers of answers that are no pages.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Source: the Fetch standard. What a page of an allowed origin may send and read, beside what every
# page may.
_CORS = {
    "Access-Control-Expose-Headers": "Content-Disposition, Content-Range, ETag, Location,"
    " Preference-Applied, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-ID",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
_PREFLIGHT = {
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, If-Match,"
    " If-None-Match, Last-Event-ID, Prefer, Range, X-Request-ID",
    "Access-Control-Max-Age": "7200",  # no browser keeps it longer
}


def install(app: Flask, settings: Settings) -> None:
    """Refuses requests that pages of other sites make, and tells browsers what answers are for."""
    allowed = frozenset(settings.cors_origins)
    public = {name.lower() for name in settings.public_hosts}
    names = public | {"localhost", settings.host.lower()}

    @app.before_request
    def check() -> None:
        _check_host(request.host, names)
        if request.method not in SAFE_METHODS and request.headers.get("Origin") not in allowed:
            _check_origin(request.host, public)

    @app.after_request
    def tell(response: Response) -> Response:
        if allowed:
            _tell_origin(response, allowed)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response


def _tell_origin(response: Response, allowed: frozenset[str]) -> None:
    """Lets a page of an allowed origin read the answer, or ask what it wants to."""
    response.vary.add("Origin")
    origin = request.headers.get("Origin", "")
    if origin not in allowed:
        return
    response.headers.update(_CORS)
    response.headers["Access-Control-Allow-Origin"] = origin
    if request.method == "OPTIONS":
        response.headers.update(_PREFLIGHT)
        response.headers["Access-Control-Allow-Methods"] = response.headers.get("Allow", "")


def _check_host(host: str, names: set[str]) -> None:
    """Raises UnknownHost for a name that is not the service's.

    An address needs no name, so no rebinding leads there.
    """
    name = _name_of(host)
    if name not in names and not _is_address(name):
        raise UnknownHost(
            f"The service is not called {name!r}. If it is, name it in TWINLENS_PUBLIC_HOSTS."
        )


def _check_origin(host: str, public: set[str]) -> None:
    """Raises ForeignOrigin for a request that a page of another site makes.

    Source: the Fetch standard: browsers send Origin with every method but GET and HEAD, and
    `null` where they conceal it.
    """
    origin = request.headers.get("Origin")
    if request.headers.get("Sec-Fetch-Site") == "cross-site" or (
        origin is not None and not _is_own(origin, host, public)
    ):
        raise ForeignOrigin("A page of another site may not change anything here.")


def _is_own(origin: str, host: str, public: set[str]) -> bool:
    """Tells if an origin is this service's, under the name that was asked for or a public one.

    A proxy may serve it by https, and pass on another Host.
    """
    authority = origin.partition("://")[2]
    return authority.lower() == host.lower() or _name_of(authority) in public


def _name_of(authority: str) -> str:
    """Returns a host without its port, and an IPv6 address without its brackets.

    >>> _name_of("Photos.example:8000"), _name_of("[::1]:8000")
    ('photos.example', '::1')
    """
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
