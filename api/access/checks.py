"""What each request is checked against: whose key it has, and what its route needs.

A route says which scope it needs where it says everything else of itself (`security=needs(…)`); the
OpenAPI document shows it, and this holds to it. One that says nothing needs the widest.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import g, has_request_context, request

from twinlens.api.access.keyring import Keyring
from twinlens.api.access.keys import Grant, Scope
from twinlens.shared.errors import KeyNeeded, NotAllowed, Unavailable
from twinlens.shared.loopback import is_loopback
from twinlens.shared.redis.jobs import no_such_job

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask_openapi.openapi import OpenAPI

    from twinlens.shared.redis.jobs import Jobs
    from twinlens.shared.settings import Settings

log = logging.getLogger(__name__)

# Of the security scheme, in the OpenAPI document.
SCHEME = "key"
KEY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key that `twinlens keys create` made. Before the first is made, and only for"
    " callers on the same machine, none is needed.",
}
# Describes the interface, and holds nothing of anybody's: needs no key.
PUBLIC_BLUEPRINT = "docs"

# Where no key is needed, and where one is and is not sent.
_EVERYTHING = Grant(scope="admin")
_NOTHING = Grant(scope="read", libraries=[])


def needs(scope: Scope) -> list[dict[str, list[str]]]:
    """Returns what a route says of the keys that may ask it: `security` of its operation."""
    return [{SCHEME: [scope]}]


def needs_none() -> list[dict[str, list[str]]]:
    """Returns the same of a route that needs no key."""
    return [{}]


@dataclass(frozen=True)
class Caller:
    """Whoever sends a request.

    Attributes:
        keyring: Records of keys.
        is_private: Whether only this machine reaches the service: then no key is needed before
            there is one.
        key: What was sent as one, if anything.
    """

    keyring: Keyring
    is_private: bool
    key: str | None

    def read_grant(self) -> Grant:
        """Returns what the caller may do, as its key's record says by now.

        Raises:
            KeyNeeded: It has to send a key, or another one.
            Unavailable: Records cannot be read: nobody may do anything.
        """
        try:
            return self._read_grant()
        except OSError as error:
            log.error("keys cannot be read: %s", error)  # noqa: TRY400
            raise Unavailable("The service cannot read its keys.") from None

    def _read_grant(self) -> Grant:
        if self.is_private and not self.keyring.is_there():
            return _EVERYTHING
        if self.key is None:
            raise KeyNeeded("A key is needed: send it as `Authorization: Bearer KEY`.")
        record = self.keyring.find(self.key)
        if record is None:
            raise KeyNeeded("The key is not one of this service.")
        if record.state != "valid":
            raise KeyNeeded(f"Key {record.id} is {record.state}.")
        return record


def identify(app: OpenAPI, settings: Settings) -> None:
    """Notes who sends a request.

    What its caller may do is read once that matters: health must not wait for a disk.
    """
    keyring, is_private = Keyring(settings.keys_dir), is_loopback(settings.host)

    @app.before_request
    def note() -> None:
        sent = request.authorization
        key = sent.token if sent is not None and sent.type == "bearer" else None
        g.caller = Caller(keyring, is_private, key)


def hold_to_scopes(app: OpenAPI, jobs: Jobs) -> None:
    """Refuses what a caller's key does not allow, before anything of the body is read."""

    @app.before_request
    def check() -> None:
        if request.method == "OPTIONS" or request.blueprint == PUBLIC_BLUEPRINT:
            return
        scope = _scope_of_route(app)
        if scope is None:
            return
        _grant()
        check_scope(scope)
        if job_id := (request.view_args or {}).get("job_id"):
            _check_job(jobs, job_id)


def current_grant() -> Grant:
    """Returns what this request's caller may do; the service itself may do everything."""
    if not has_request_context():
        return _EVERYTHING
    try:
        return _grant()
    except (KeyNeeded, Unavailable):
        return _NOTHING


def watch_grant() -> Callable[[], bool]:
    """Returns what tells if this request's key, which it may outlive, is still good."""
    caller: Caller = g.caller

    def is_granted() -> bool:
        try:
            caller.read_grant()
        except (KeyNeeded, Unavailable):
            return False
        return True

    return is_granted


def check_scope(scope: Scope) -> None:
    """Refuses a caller whose key has not the scope that something needs.

    Raises:
        NotAllowed: It has not.
    """
    grant = current_grant()
    if not grant.has(scope):
        raise NotAllowed(f"This needs a key with the scope {scope}; the key has {grant.scope}.")


def sees_library(name: str) -> bool:
    """Tells if this request's caller may know of a library."""
    return current_grant().covers(name)


def check_library(name: str) -> None:
    """Refuses a caller whose key is not for a library, whether that is there or not.

    Raises:
        NotAllowed: It is for others.
    """
    if not sees_library(name):
        raise NotAllowed(f"The key is not for library {name!r}.")


def _grant() -> Grant:
    """Returns what this request's caller may do.

    Raises:
        KeyNeeded: It has to send a key, or another one.
        Unavailable: Keys cannot be read.
    """
    if "grant" not in g:
        g.grant = g.caller.read_grant()
    grant: Grant = g.grant
    return grant


def _check_job(jobs: Jobs, job_id: str) -> None:
    """Hides a job of a library that the caller's key is not for.

    Raises:
        JobNotFound: Whether it is there or not.
    """
    if current_grant().libraries is None:
        return  # without a question to Redis
    library = jobs.library(job_id)
    if library is not None and not sees_library(library):
        raise no_such_job(job_id)


def _scope_of_route(app: OpenAPI) -> Scope | None:
    """Returns which scope the request's route needs; None where it needs no key."""
    assert request.url_rule is not None
    path = re.sub(r"<(?:[^<:>]+:)?([^<>]+)>", r"{\1}", request.url_rule.rule)
    method = "get" if request.method == "HEAD" else request.method.lower()
    operation = getattr(app.paths.get(path), method, None)
    [requirement] = (operation and operation.security) or needs("admin")
    return next(iter(requirement.get(SCHEME, [])), None)
