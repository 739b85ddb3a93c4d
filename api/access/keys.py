"""Keys: what one looks like, what is kept of it, and what it allows.

    twinlens_0f3a9c5be1d27784_…64 hexadecimal digits…
             id, by which its     256 random bits
             record is known

The prefix is for people and for scanners of secrets. 256 random bits cannot be guessed, so that
SHA-256 hides them as well as a slow hash would, which is for words that people choose:
docs/decisions/0023-keys.md.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import datetime
from typing import Literal, NamedTuple, get_args

from pydantic import BaseModel, Field

from twinlens.shared.libraries import LibraryName
from twinlens.shared.messages import Moment, now

Scope = Literal["read", "write", "admin"]
# Each includes those before it.
SCOPES: tuple[Scope, ...] = get_args(Scope)

PREFIX = "twinlens"
N_ID_BYTES = 8
N_SECRET_BYTES = 32
KEY_ID = f"[0-9a-f]{{{2 * N_ID_BYTES}}}"
_KEY = re.compile(f"{PREFIX}_({KEY_ID})_[0-9a-f]{{{2 * N_SECRET_BYTES}}}")


class Grant(BaseModel):
    """What a caller may do."""

    id: str = Field("", description="the key's; empty where none is needed")
    scope: Scope = Field(description="the widest of those that it has")
    libraries: list[LibraryName] | None = Field(
        None, description="those it is held to; null for all"
    )
    requests_per_minute: int | None = Field(
        None, ge=0, description="instead of the service's own limit; 0 for none"
    )

    def has(self, scope: Scope) -> bool:
        """Tells if it allows what needs a scope."""
        return SCOPES.index(scope) <= SCOPES.index(self.scope)

    def covers(self, library: str) -> bool:
        """Tells if it is for a library."""
        return self.libraries is None or library in self.libraries


class KeyRecord(Grant):
    """What is kept of a key. The key itself is not."""

    name: str = ""
    sha256: str = Field(description="of the whole key", repr=False)
    created_at: Moment
    expires_at: Moment | None = None
    revoked_at: Moment | None = None

    @property
    def state(self) -> Literal["valid", "expired", "revoked"]:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now() else "valid"

    def is_of(self, key: str) -> bool:
        """Tells if it is a key's, in a time that does not depend on how much of it is right."""
        return hmac.compare_digest(self.sha256, _sha256(key))


class NewKey(NamedTuple):
    """A key, which is shown once, and its record."""

    key: str
    record: KeyRecord


def new_key(grant: Grant, name: str = "", expires_at: datetime | None = None) -> NewKey:
    """Makes a key that allows this. Nothing is kept yet."""
    key_id = secrets.token_hex(N_ID_BYTES)
    key = f"{PREFIX}_{key_id}_{secrets.token_hex(N_SECRET_BYTES)}"
    record = KeyRecord(
        **grant.model_dump(exclude={"id"}),
        id=key_id,
        name=name,
        sha256=_sha256(key),
        created_at=now(),
        expires_at=expires_at,
    )
    return NewKey(key, record)


def id_of(key: str) -> str | None:
    """Returns the id in a key; None for what is none."""
    match = _KEY.fullmatch(key)
    return match and match[1]


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
