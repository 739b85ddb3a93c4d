"""What the routes work with, built once. Nothing connects before the first request.

So the API starts, and says what is missing, while the parts behind it are down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import current_app

from twinlens.api.accepting.arrival import Arrivals
from twinlens.api.accepting.cancelling import Cancelling
from twinlens.api.accepting.idempotency import IdempotencyKeys
from twinlens.api.accepting.intake import Intake
from twinlens.api.accepting.libraries import Libraries
from twinlens.api.accepting.limits import Limits
from twinlens.api.accepting.publisher import Publisher
from twinlens.api.accepting.reconciling import Reconciliations
from twinlens.api.accepting.retrying import Retrying
from twinlens.api.calls import Calls
from twinlens.api.job_views import JobViews
from twinlens.api.probe import SharedProbe
from twinlens.api.readiness import Readiness
from twinlens.api.waiting import MAX_WAITERS, Places
from twinlens.shared import queue
from twinlens.shared.blobs import BlobStore
from twinlens.shared.kept_libraries import KeptLibraries
from twinlens.shared.redis.catalog import Catalog
from twinlens.shared.redis.client import connect_for_callers
from twinlens.shared.redis.feed import Feed
from twinlens.shared.redis.jobs import Jobs
from twinlens.shared.redis.sent import SentPictures
from twinlens.shared.redis.webhooks import OwedWebhooks

if TYPE_CHECKING:
    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings

EXTENSION = "twinlens"


@dataclass(frozen=True, kw_only=True)
class Services:
    """Each route takes those that it needs. Each of them touches only what it was given."""

    settings: Settings
    redis: Redis
    jobs: Jobs
    feed: Feed
    catalog: Catalog
    blobs: BlobStore
    limits: Limits
    readiness: Readiness
    publisher: Publisher
    intake: Intake
    arrivals: Arrivals
    libraries: Libraries
    cancelling: Cancelling
    retrying: Retrying
    reconciliations: Reconciliations
    calls: Calls
    job_views: JobViews
    webhooks: OwedWebhooks
    probe: SharedProbe


def build_services(settings: Settings) -> Services:
    """Builds all services."""
    redis = connect_for_callers(settings.redis_url)
    blobs = BlobStore(settings.blob_dir)
    jobs, feed, catalog = Jobs(redis), Feed(redis), Catalog(redis, KeptLibraries(blobs))
    limits = Limits(settings, redis, feed)
    waiters = Places(MAX_WAITERS, "callers wait already; come again, or poll the job")
    publisher = Publisher(celery=queue.make_celery(settings), feed=feed)
    sent = SentPictures(redis, settings.max_sent_bytes)
    intake = Intake(
        jobs=jobs,
        idempotency=IdempotencyKeys(redis),
        blobs=blobs,
        publisher=publisher,
        sent=sent,
        job_ttl_s=settings.job_ttl_s,
    )
    return Services(
        settings=settings,
        redis=redis,
        jobs=jobs,
        feed=feed,
        catalog=catalog,
        blobs=blobs,
        limits=limits,
        readiness=Readiness(limits, settings.milvus_uri),
        publisher=publisher,
        intake=intake,
        arrivals=Arrivals(settings=settings, intake=intake, catalog=catalog, limits=limits),
        libraries=Libraries(
            catalog=catalog, jobs=jobs, intake=intake, rollback_s=settings.rollback_s
        ),
        cancelling=Cancelling(jobs=jobs, catalog=catalog, blobs=blobs),
        retrying=Retrying(jobs=jobs, catalog=catalog, intake=intake),
        reconciliations=Reconciliations(catalog=catalog, intake=intake),
        calls=Calls(redis, publisher, waiters, sent),
        job_views=JobViews(redis, jobs, catalog, waiters),
        webhooks=OwedWebhooks(redis),
        probe=SharedProbe(),
    )


def current_services() -> Services:
    """Returns the services of the app that serves this request."""
    services = current_app.extensions[EXTENSION]
    assert isinstance(services, Services)
    return services
