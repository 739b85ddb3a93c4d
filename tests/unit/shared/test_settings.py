"""What settings refuse, and that what is secret is not shown."""

from __future__ import annotations

import pytest

from twinlens.shared.settings import Settings

KEY = "aQ" * 16


@pytest.mark.parametrize(
    "entry", ["", "https://a.b", "ftp://a.b", "http://", "http://a.b/", "http://me@a.b", "a.b/c"]
)
def test_a_host_of_webhooks_that_is_none_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="is not host, host:port or http://host:port"):
        Settings(webhook_hosts=[entry])


@pytest.mark.parametrize(
    "secret", [KEY, "whsec_", "whsec_c2hvcnQ=", f"whsec_{KEY}%", "whsec_" + KEY * 3]
)
def test_a_secret_that_is_none_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="the base64 of 24 to 64 random bytes") as refused:
        Settings(webhook_secret=f"whsec_{KEY} {secret}")
    assert KEY not in str(refused.value)


def test_secrets_are_not_shown_with_the_settings() -> None:
    settings = Settings(webhook_secret=f"whsec_{KEY} whsec_{KEY}", milvus_token="user:password")
    assert KEY not in repr(settings)
    assert "password" not in repr(settings)
