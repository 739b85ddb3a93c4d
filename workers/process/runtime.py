"""What one worker process holds: built once, in the child, after fork."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from twinlens.models.pictures import WHOLE, Picture, PictureLimits, Region, open_picture
from twinlens.models.registry import DEFAULT_MODELS, Registry, ensure_models
from twinlens.models.session import default_batch_size, is_cpu
from twinlens.shared.blobs import BlobStore
from twinlens.shared.errors import Unavailable
from twinlens.shared.libraries import Library
from twinlens.shared.messages import Lane, ModelSummary
from twinlens.shared.queue import REDIS_RETRIES, connect
from twinlens.shared.redis.catalog import Catalog
from twinlens.shared.redis.feed import Feed
from twinlens.shared.redis.jobs import Jobs
from twinlens.workers.chunk.sources import Sources
from twinlens.workers.milvus.collection import Collection, collection_of
from twinlens.workers.milvus.vectors import Vectors
from twinlens.workers.process.cores import n_cores

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis import Redis

    from twinlens.models.card import Card
    from twinlens.models.session import Embedder, Pixels
    from twinlens.models.text import TextEncoder
    from twinlens.shared.libraries import Edition
    from twinlens.shared.settings import Settings

DEFAULT_LIBRARY = "default"
N_WRITERS = 4
N_FETCHERS = 8
N_SEARCHERS = 8


class Target(NamedTuple):
    """A model of a library, and where its embeddings go."""

    model: Embedder
    collection: Collection


@dataclass
class Runtime:
    """The parts that tasks work with."""

    settings: Settings
    lanes: Sequence[Lane]
    redis: Redis
    pictures: Redis  # the same server, for raw bytes
    jobs: Jobs
    feed: Feed
    catalog: Catalog
    blobs: BlobStore
    vectors: Vectors
    registry: Registry
    decoders: ThreadPoolExecutor
    writers: ThreadPoolExecutor  # one thread a model: each write waits for Milvus
    fetchers: ThreadPoolExecutor
    searchers: ThreadPoolExecutor  # onnxruntime and gRPC both let go: models work side by side
    n_pictures: int = 0
    n_tasks: int = 0
    busy_s: float = 0.0
    _embedders: dict[str, Embedder] = field(default_factory=dict)
    _text_encoders: dict[str, TextEncoder] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{'+'.join(self.lanes)}@{socket.gethostname()}:{os.getpid()}"

    @functools.cached_property
    def sources(self) -> Sources:
        return Sources(self.settings)

    def open(self, content: bytes, models: Sequence[Embedder], region: Region = WHOLE) -> Picture:
        """Decodes a picture, or a region of it, in the detail that the models take.

        Raises:
            PictureError: The picture is refused.
        """
        limits = PictureLimits(max_pixels=self.settings.max_picture_px)
        wanted_px = max(model.card.input.wanted_px for model in models)
        return open_picture(content, limits, wanted_px=wanted_px, region=region)

    def decode(self, content: bytes, models: Sequence[Embedder]) -> tuple[Picture, list[Pixels]]:
        """Decodes a picture once, and resizes it for each model.

        Returns:
            The picture, and uint8 [height, width, 3] for each of the models, in their order.

        Raises:
            PictureError: The picture is refused.
        """
        picture = self.open(content, models)
        return picture, [picture.pixels_for(model.card.input) for model in models]

    def targets_of(self, edition: Edition, wanted: Iterable[str] | None = None) -> list[Target]:
        """Returns the models of a library's edition, or some of them by name@version.

        Raises:
            ModelNotFound: One is not in this worker's directory.
            ModelRefused: One is not what its card says.
        """
        models = [self._embedder(ref) for ref in wanted or edition.models]
        return [Target(model, collection_of(edition, model.card)) for model in models]

    def text_encoder(self, model: Embedder) -> TextEncoder:
        """Returns a model's text encoder, opened once.

        Raises:
            ModelNotFound: It has none.
            ModelRefused: It is not what the model's card says.
        """
        ref = model.card.ref
        if ref not in self._text_encoders:
            self._text_encoders[ref] = self.registry.open_text(ref)
        return self._text_encoders[ref]

    def publish_models(self) -> None:
        """Tells the catalogue which models there are, and what Milvus has, if it can be reached."""
        self.catalog.publish_models(summary_of(card) for card in self.registry.cards())
        with contextlib.suppress(Unavailable):
            self.catalog.publish_server(self.vectors.server)

    def warm_up(self) -> None:
        """Opens the default library's models, and makes the first search as quick as the later.

        Raises:
            ModelError: One is not what its card says.
        """
        library = self.catalog.library(DEFAULT_LIBRARY)
        for model, collection in self.targets_of(library):
            spec = model.card.input
            blank = np.zeros((1, spec.height, spec.width, 3), np.uint8)
            embeddings = model.embed_batch(blank)
            # Milvus Lite takes 160 ms for it.
            with contextlib.suppress(Unavailable):
                self.vectors.nearest(collection, embeddings, limit=1)

    def _embedder(self, ref: str) -> Embedder:
        if ref not in self._embedders:
            providers = self.settings.execution_providers
            self._embedders[ref] = self.registry.open(
                ref,
                providers=providers,
                batch_size=self.settings.batch_size or default_batch_size(providers),
            )
        return self._embedders[ref]


def build_runtime(settings: Settings, lanes: Sequence[Lane]) -> Runtime:
    """Connects, builds the default models, and tells the catalogue which models there are.

    Raises:
        ModelError: A card is not valid.
    """
    ensure_models(settings.models_dir, DEFAULT_MODELS)
    redis = connect(settings.redis_url, n_retries=REDIS_RETRIES)
    catalog = Catalog(redis)
    runtime = Runtime(
        settings=settings,
        lanes=lanes,
        redis=redis,
        pictures=connect(settings.redis_url, n_retries=REDIS_RETRIES, decode=False),
        jobs=Jobs(redis),
        feed=Feed(redis),
        catalog=catalog,
        blobs=BlobStore(settings.blob_dir),
        vectors=Vectors(settings),
        registry=Registry(settings.models_dir),
        decoders=ThreadPoolExecutor(_n_decoders(settings), "decode"),
        writers=ThreadPoolExecutor(N_WRITERS, "write"),
        fetchers=ThreadPoolExecutor(N_FETCHERS, "fetch"),
        searchers=ThreadPoolExecutor(N_SEARCHERS, "search"),
    )
    runtime.publish_models()
    catalog.ensure_library(Library(name=DEFAULT_LIBRARY, models=list(DEFAULT_MODELS)))
    return runtime


def _n_decoders(settings: Settings) -> int:
    """Returns how many threads decode: one beside one core's inference, all for a GPU."""
    return 1 if is_cpu(settings.execution_providers) else n_cores()


def summary_of(card: Card) -> ModelSummary:
    """Returns what clients are told of a model."""
    fields = card.model_dump(mode="json", include=set(ModelSummary.model_fields))
    return ModelSummary(**fields, has_text=card.text is not None)
