"""Tells who asked for it that a job has ended: one signed POST, tried until it is taken.

Source: Standard Webhooks 1.0 (https://www.standardwebhooks.com) for headers, signature and status.
"""

from __future__ import annotations

import logging
import random
import ssl
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpcore
from standardwebhooks import Webhook

from twinlens.shared.answers import JobEvent
from twinlens.shared.errors import SourceRefused
from twinlens.shared.job_answers import answer_of
from twinlens.shared.log import request_id
from twinlens.shared.messages import now
from twinlens.shared.origins import origin_of
from twinlens.shared.redis.webhooks import OwedWebhooks, Try
from twinlens.workers.network import NETWORK_ERRORS, CheckedNetwork, deadline, reason_of, url_of

if TYPE_CHECKING:
    from twinlens.shared.origins import Origin
    from twinlens.shared.redis.client import Redis
    from twinlens.shared.redis.jobs import Job, Jobs
    from twinlens.shared.settings import Settings

log = logging.getLogger(__name__)

LIMIT_S = 10.0
# Before each try but the first, a tenth more or less, so that they don't all come back at once: a
# receiver may be away for a day.
PAUSES_S = (5, 30, 300, 1_800, 7_200, 21_600, 57_600)


class Webhooks:
    """Delivers what is owed to each allowed host. Threads share one."""

    def __init__(self, settings: Settings, redis: Redis, jobs: Jobs) -> None:
        self._owed = OwedWebhooks(redis)
        self._jobs = jobs
        self._signers = [Webhook(secret) for secret in settings.webhook_secret.split()]
        # Who cannot sign leaves it to those who can.
        self.origins = settings.webhook_origins if self._signers else frozenset()
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl.create_default_context(),
            max_connections=None,
            network_backend=CheckedNetwork(settings.allowed_networks),
        )

    def deliver_next(self, origin: Origin) -> bool:
        """Delivers what has been due for longest at a host; returns whether anything was."""
        job_id = self._owed.claim(origin)
        if job_id is None:
            return False
        job = self._jobs.find(job_id)
        tried = Try("failed", "The job expired.") if job is None else self._try(origin, job)
        self._owed.settle(origin, job_id, tried)
        return True

    def _try(self, origin: Origin, job: Job) -> Try:
        request_id.set(job.request_id)
        try:
            status = self._post(origin, job)
        except SourceRefused as error:
            reason = error.detail
        except NETWORK_ERRORS as error:
            reason = f"The host {origin.host!r} {reason_of(error)}."
        else:
            if 200 <= status < 300:
                log.info("told %s of the end of job %s", origin, job.id)
                return Try("delivered")
            reason = f"The host {origin.host!r} answered with status {status}."
            if status == 410:  # Gone: it wants no more
                return Try("failed", reason)
        log.warning("could not tell %s of the end of job %s: %s", origin, job.id, reason)
        return _later(job, reason)

    def _post(self, origin: Origin, job: Job) -> int:
        """Returns the status that a host answers with. Redirects are not followed.

        Raises:
            SourceRefused: The host has another address than is allowed.
            httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException: There is none.
        """
        parts = urlsplit(job.webhook or "")
        if origin_of(parts) != origin:
            raise SourceRefused("The URL is not of a host in TWINLENS_WEBHOOK_HOSTS.")
        body = _event_of(job).model_dump_json()
        with (
            deadline(LIMIT_S),
            self._pool.stream(
                "POST", url_of(parts), headers=self._headers(job.id, body), content=body.encode()
            ) as response,
        ):
            # What it has to say besides is not read.
            return response.status

    def _headers(self, job_id: str, body: str) -> list[tuple[str | bytes, str | bytes]]:
        moment = now()
        signatures = [signer.sign(job_id, moment, body) for signer in self._signers]
        return [
            ("Content-Type", "application/json"),
            ("User-Agent", "twinlens"),
            # The same with each try: a receiver knows by it what it has taken already.
            ("webhook-id", job_id),
            ("webhook-timestamp", str(int(moment.timestamp()))),
            ("webhook-signature", " ".join(signatures)),
        ]


def _event_of(job: Job) -> JobEvent:
    assert job.finished_at is not None
    kind: Any = f"job.{job.status}"
    return JobEvent(type=kind, timestamp=job.finished_at, data=answer_of(job))


def _later(job: Job, reason: str) -> Try:
    """Returns when it is tried again: not after the last pause, or the job's life."""
    assert job.expires_at is not None
    if job.n_webhook_tries < len(PAUSES_S):
        pause_s = PAUSES_S[job.n_webhook_tries] * random.uniform(0.9, 1.1)  # noqa: S311
        due_at = time.time() + pause_s
        if due_at < job.expires_at.timestamp():
            return Try("pending", reason, due_at)
    return Try("failed", reason)
