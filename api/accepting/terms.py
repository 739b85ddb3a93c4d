"""What a caller wants of a job besides its work: the same for every request that makes one."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from twinlens.api.accepting.idempotency import scoped_key
from twinlens.api.schemas import JobParameters
from twinlens.shared.errors import FieldError, ValidationFailed, place
from twinlens.shared.origins import PORTS, origin_of
from twinlens.shared.redis import keys

if TYPE_CHECKING:
    from twinlens.api.schemas import KeyHeaders, WebhookParameters
    from twinlens.shared.redis.jobs import Job
    from twinlens.shared.settings import Settings


class Webhook(NamedTuple):
    """A URL that is to be told of a job's end, and the line of its host."""

    url: str
    line: str


class Terms(NamedTuple):
    """On which a job is accepted."""

    key: str | None = None  # the caller's idempotency key, scoped
    webhook: Webhook | None = None
    deadline_s: int | None = None  # from the job's creation

    def put_into(self, job: Job) -> None:
        """Notes them in a job that is not recorded yet."""
        if self.webhook is not None:
            job.webhook, job.webhook_line = self.webhook
            job.webhook_status = "pending"
        if self.deadline_s is not None:
            job.deadline_at = job.created_at + timedelta(seconds=self.deadline_s)

    def mark(self, fingerprint: str) -> str:
        """Returns the fingerprint of a request that has these terms, too."""
        if not fingerprint or (self.webhook, self.deadline_s) == (None, None):
            return fingerprint
        url = "" if self.webhook is None else self.webhook.url
        return hashlib.sha256(f"{fingerprint} {self.deadline_s} {url}".encode()).hexdigest()


def read_terms(
    settings: Settings, query: WebhookParameters, header: KeyHeaders | None = None
) -> Terms:
    """Reads the terms of this request.

    Args:
        settings: Say who may be told of the ends of jobs.
        query: Its parameters.
        header: Its headers, where it may be repeated.

    Raises:
        ValidationFailed: The webhook is not allowed.
    """
    key = header.idempotency_key if header else None
    webhook = None if query.webhook is None else _allowed(query.webhook, settings)
    deadline_s = query.deadline_s if isinstance(query, JobParameters) else None
    return Terms(scoped_key(key), webhook, deadline_s)


def _allowed(url: str, settings: Settings) -> Webhook:
    try:
        parts = urlsplit(url)
        origin = origin_of(parts)
    except ValueError:
        raise _refused("It cannot be read.") from None
    if not url.isprintable():
        raise _refused("It has characters that are not shown; encode them.")
    if origin.scheme not in PORTS or not origin.host or "@" in parts.netloc or parts.fragment:
        raise _refused("Send an https: URL without user, password and fragment.")
    if origin not in settings.webhook_origins:
        raise _refused(f"{origin} is not one of TWINLENS_WEBHOOK_HOSTS.")
    if not settings.webhook_secret:
        raise _refused("TWINLENS_WEBHOOK_SECRET is not set: it would not be signed.")
    return Webhook(url, keys.webhook_line(str(origin)))


def _refused(message: str) -> ValidationFailed:
    error = FieldError(location=place("query", "webhook"), message=message)
    return ValidationFailed("The webhook is not allowed.", [error])
