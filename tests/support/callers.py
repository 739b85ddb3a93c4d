"""Callers with keys of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support.requests import Client, client_of

from twinlens.api.access.keyring import Keyring
from twinlens.api.access.keys import Grant, KeyRecord, new_key

if TYPE_CHECKING:
    from datetime import datetime

    from twinlens.api.access.keys import Scope
    from twinlens.shared.settings import Settings


class Caller:
    """A key, and a client of the service that sends it."""

    def __init__(self, client: Client, key: str, record: KeyRecord, keyring: Keyring) -> None:
        self.client = client
        self.key = key
        self.id = record.id
        self._keyring = keyring

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def revoke(self) -> None:
        assert self._keyring.revoke(self.id) is not None


def caller_of(
    settings: Settings, scope: Scope, expires_at: datetime | None = None, **grant: Any
) -> Caller:
    """Makes a key, in the data directory of a service, and a client that has it."""
    keyring = Keyring(settings.keys_dir)
    made = new_key(Grant(scope=scope, **grant), expires_at=expires_at)
    keyring.add(made.record)
    client = client_of(settings)
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {made.key}"
    return Caller(client, made.key, made.record, keyring)
