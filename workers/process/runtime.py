"""What one worker process holds: built once, in the child, after the fork."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twinlens.models.cores import n_cores
from twinlens.models.registry import DEFAULT_MODELS, Registry, ensure_models
from twinlens.models.session import is_cpu
from twinlens.shared.blobs import BlobStore
from twinlens.shared.errors import ModelNotFound, Unavailable
from twinlens.shared.journal import Journal
from twinlens.shared.kept_libraries import KeptLibraries
from twinlens.shared.libraries import DEFAULT_LIBRARY, new_library
from twinlens.shared.messages import Lane, ModelSummary
from twinlens.shared.redis.catalog import Catalog
from twinlens.shared.redis.client import WORKER_RETRIES, connect, connect_raw
from twinlens.shared.redis.feed import Feed
from twinlens.shared.redis.jobs import Jobs
from twinlens.workers.chunk.cataloguing import Cataloguing
from twinlens.workers.chunk.chunks import Chunks
from twinlens.workers.chunk.embedding import Embedding
from twinlens.workers.chunk.listed import Listed
from twinlens.workers.chunk.sources import Sources
from twinlens.workers.counts import Counts
from twinlens.workers.decoding import Decoder
from twinlens.workers.library.amendments import Amendments
from twinlens.workers.library.calibrations import Calibrations
from twinlens.workers.library.damages import Damages
from twinlens.workers.library.deletions import Deletions
from twinlens.workers.library.editions import Editions
from twinlens.workers.library.expiry import Expiry
from twinlens.workers.library.images import Images
from twinlens.workers.library.journaling import Journaling
from twinlens.workers.library.plans import Plans
from twinlens.workers.library.removals import Removals
from twinlens.workers.library.retries import Retries
from twinlens.workers.milvus.vectors import Vectors
from twinlens.workers.process.health import Health
from twinlens.workers.process.sweeper import Sweeper
from twinlens.workers.query.comparisons import Comparisons
from twinlens.workers.query.copies import Copies
from twinlens.workers.query.duplicates import NearDuplicates
from twinlens.workers.query.examples import Examples
from twinlens.workers.query.proving import Proving
from twinlens.workers.query.searches import Searches
from twinlens.workers.query.words import Words
from twinlens.workers.reconcile.comparing import Comparing
from twinlens.workers.reconcile.folding import Folding
from twinlens.workers.reconcile.reading import Reading
from twinlens.workers.reconcile.reconciling import Reconciling
from twinlens.workers.reconcile.repairs import Repairs
from twinlens.workers.targets import Targets
from twinlens.workers.watch import Watch
from twinlens.workers.webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.models.card import Card
    from twinlens.shared.redis.client import RawRedis, Redis
    from twinlens.shared.settings import Settings

log = logging.getLogger(__name__)

N_WRITERS = 4
N_FETCHERS = 8
N_SEARCHERS = 8


@dataclass(frozen=True)
class Runtime:
    """The parts that tasks work with. Each part was given what it may touch."""

    settings: Settings
    lanes: Sequence[Lane]
    name: str
    redis: Redis
    sent_pictures: RawRedis  # the same server, for raw bytes
    jobs: Jobs
    feed: Feed
    catalog: Catalog
    blobs: BlobStore
    vectors: Vectors
    registry: Registry
    targets: Targets
    counts: Counts
    watch: Watch
    health: Health
    chunks: Chunks
    images: Images
    deletions: Deletions
    amendments: Amendments
    editions: Editions
    retries: Retries
    reconciling: Reconciling
    calibrations: Calibrations
    removals: Removals
    searches: Searches
    comparisons: Comparisons
    near_duplicates: NearDuplicates
    webhooks: Webhooks
    sweeper: Sweeper

    def publish(self) -> None:
        """Tells the catalogue what it must know, and may have lost.

        Which models there are, which Milvus server, if it answers, and the libraries.
        """
        self.catalog.restore_libraries()
        self.catalog.ensure_library(new_library(DEFAULT_LIBRARY, DEFAULT_MODELS))
        there = [card for card in self.registry.cards() if self.targets.has(card)]
        self.catalog.publish_models(map(summary_of, there))
        with contextlib.suppress(Unavailable):
            self.catalog.publish_server(self.vectors.server)

    def warm_up(self) -> None:
        """Opens the default library's models, and makes the first search as fast as later ones.

        Raises:
            ModelError: A model differs from its card.
        """
        try:
            targets = self.targets.of(self.catalog.library(DEFAULT_LIBRARY))
        except ModelNotFound as error:
            # Other libraries can be searched, and this one be given other models.
            log.error("library %s lacks a model: %s", DEFAULT_LIBRARY, error)  # noqa: TRY400
            return
        for model, collection in targets:
            spec = model.card.input
            blank = np.zeros((1, spec.height, spec.width, 3), np.uint8)
            embeddings = model.embed_batch(blank)
            # Milvus Lite takes 160 ms for it.
            with contextlib.suppress(Unavailable):
                self.vectors.nearest(collection, embeddings, limit=1)


def build_runtime(
    settings: Settings, lanes: Sequence[Lane], registry: Registry | None = None
) -> Runtime:
    """Connects, builds the default models, and tells the catalogue which models there are.

    Args:
        settings: Where everything is.
        lanes: The lanes that the process takes.
        registry: The models, if not those in the settings' directory.

    Raises:
        ModelError: A card is not valid.
    """
    ensure_models(settings.models_dir, DEFAULT_MODELS)
    name = f"{'+'.join(lanes)}@{socket.gethostname()}:{os.getpid()}"
    redis = connect(settings.redis_url, n_retries=WORKER_RETRIES)
    sent_pictures = connect_raw(settings.redis_url, n_retries=WORKER_RETRIES)
    blobs, vectors, counts = BlobStore(settings.blob_dir), Vectors(settings), Counts()
    jobs, feed, catalog = Jobs(redis), Feed(redis), Catalog(redis, KeptLibraries(blobs))
    journal = Journal(blobs)
    journaling = Journaling(catalog=catalog, journal=journal)
    registry = registry or Registry(settings.models_dir)
    watch = Watch()
    targets, decoder = Targets(registry, settings, watch), Decoder(settings.max_picture_px)
    # onnxruntime and gRPC both release the GIL, so models run in parallel.
    searchers = ThreadPoolExecutor(N_SEARCHERS, "search")
    verifiers = ThreadPoolExecutor(n_cores(), "verify")
    images = Images(
        catalog=catalog,
        blobs=blobs,
        journal=journal,
        vectors=vectors,
        targets=targets,
        decoder=decoder,
    )
    plans = Plans(settings=settings, jobs=jobs, feed=feed, catalog=catalog, blobs=blobs)
    deletions = Deletions(jobs=jobs, catalog=catalog, images=images, plans=plans)
    amendments = Amendments(
        catalog=catalog, vectors=vectors, targets=targets, images=images, journaling=journaling
    )
    embedding = Embedding(
        blobs=blobs,
        decoder=decoder,
        targets=targets,
        vectors=vectors,
        decoders=ThreadPoolExecutor(_n_decoders(settings), "decode"),
        # One thread per model: each write waits for Milvus.
        writers=ThreadPoolExecutor(N_WRITERS, "write"),
        counts=counts,
        time_limit_s=settings.decode_time_limit_s,
    )
    chunks = Chunks(
        blobs=blobs,
        catalog=catalog,
        jobs=jobs,
        listed=Listed(
            blobs=blobs,
            sources=Sources(settings),
            fetchers=ThreadPoolExecutor(N_FETCHERS, "fetch"),
        ),
        embedding=embedding,
        cataloguing=Cataloguing(redis=redis, catalog=catalog),
        amendments=amendments,
        deletions=deletions,
    )
    calibrations = Calibrations(catalog=catalog, vectors=vectors, targets=targets)
    editions = Editions(
        settings=settings,
        jobs=jobs,
        catalog=catalog,
        vectors=vectors,
        targets=targets,
        calibrations=calibrations,
        plans=plans,
    )
    removals = Removals(catalog=catalog, blobs=blobs)
    damages = Damages(catalog=catalog, vectors=vectors)
    examples = Examples(
        sent_pictures=sent_pictures,
        catalog=catalog,
        images=images,
        decoder=decoder,
        vectors=vectors,
        threads=searchers,
    )
    searches = Searches(
        catalog=catalog,
        targets=targets,
        vectors=vectors,
        examples=examples,
        words=Words(catalog=catalog, targets=targets, vectors=vectors, threads=searchers),
        copies=Copies(
            images=images,
            decoder=decoder,
            threads=verifiers,
            time_limit_s=settings.verify_time_limit_ms / 1000,
        ),
        damages=damages,
        threads=searchers,
        n_candidates=settings.search_candidates,
    )
    runtime = Runtime(
        settings=settings,
        lanes=lanes,
        name=name,
        redis=redis,
        sent_pictures=sent_pictures,
        jobs=jobs,
        feed=feed,
        catalog=catalog,
        blobs=blobs,
        vectors=vectors,
        registry=registry,
        targets=targets,
        counts=counts,
        watch=watch,
        health=Health(
            catalog=catalog, targets=targets, vectors=vectors, models_dir=settings.models_dir
        ),
        chunks=chunks,
        images=images,
        deletions=deletions,
        amendments=amendments,
        editions=editions,
        retries=Retries(redis=redis, jobs=jobs, feed=feed, blobs=blobs, plans=plans),
        reconciling=Reconciling(
            settings=settings,
            jobs=jobs,
            plans=plans,
            reading=Reading(jobs=jobs, catalog=catalog, blobs=blobs, journal=journal),
            comparing=Comparing(catalog=catalog, blobs=blobs, vectors=vectors, targets=targets),
            repairs=Repairs(
                catalog=catalog,
                blobs=blobs,
                vectors=vectors,
                targets=targets,
                images=images,
                amendments=amendments,
                journaling=journaling,
            ),
            damages=damages,
        ),
        calibrations=calibrations,
        removals=removals,
        searches=searches,
        comparisons=Comparisons(catalog=catalog, targets=targets, examples=examples),
        near_duplicates=NearDuplicates(
            catalog=catalog,
            targets=targets,
            vectors=vectors,
            proving=Proving(images=images, vectors=vectors, threads=verifiers),
            damages=damages,
        ),
        webhooks=Webhooks(settings, redis, jobs),
        sweeper=Sweeper(
            name=name,
            redis=redis,
            jobs=jobs,
            feed=feed,
            editions=editions,
            calibrations=calibrations,
            damages=damages,
            removals=removals,
            expiry=Expiry(jobs=jobs, catalog=catalog, blobs=blobs, journaling=journaling),
            folding=Folding(settings=settings, catalog=catalog, journal=journal),
            catalog=catalog,
        ),
    )
    runtime.publish()
    return runtime


def _n_decoders(settings: Settings) -> int:
    """Returns how many threads decode: one beside one core's inference, all for a GPU."""
    return 1 if is_cpu(settings.execution_providers) else n_cores()


def summary_of(card: Card) -> ModelSummary:
    """Returns what clients are told about a model."""
    told = set(ModelSummary.model_fields)
    fields = card.model_dump(mode="json", include=told, exclude_none=True)
    return ModelSummary(**fields, has_text=card.text is not None)
