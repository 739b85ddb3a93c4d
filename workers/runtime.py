"""What one worker process holds: built once, in the child, after fork."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from twinlens.models.pictures import Picture, PictureLimits, open_picture
from twinlens.models.registry import Registry, ensure_models
from twinlens.shared.blobs import BlobStore
from twinlens.shared.catalog import Catalog
from twinlens.shared.errors import ModelNotFound, Unavailable
from twinlens.shared.jobs import Jobs
from twinlens.shared.messages import Library, ModelSummary
from twinlens.shared.queue import REDIS_RETRIES, Lane, connect
from twinlens.workers.vectors import Vectors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis import Redis

    from twinlens.models.card import Card
    from twinlens.models.session import Embedder, Pixels
    from twinlens.shared.settings import Settings

DEFAULT_LIBRARY = "default"


@dataclass
class Runtime:
    """The parts that tasks work with."""

    settings: Settings
    lane: Lane
    redis: Redis
    pictures: Redis  # the same server, for raw bytes
    jobs: Jobs
    catalog: Catalog
    blobs: BlobStore
    vectors: Vectors
    embedders: dict[str, Embedder]
    n_pictures: int = field(default=0)

    @property
    def name(self) -> str:
        return f"{self.lane}@{socket.gethostname()}:{os.getpid()}"

    def decode(self, content: bytes, models: Sequence[Embedder]) -> tuple[Picture, list[Pixels]]:
        """Decodes a picture once, and resizes it for each model.

        Returns:
            The picture, and uint8 [height, width, 3] for each of the models, in their order.

        Raises:
            PictureError: The picture is refused.
        """
        specs = [model.card.input for model in models]
        limits = PictureLimits(max_pixels=self.settings.max_picture_px)
        wanted_px = max(spec.wanted_px for spec in specs)
        picture = open_picture(content, limits, wanted_px=wanted_px)
        return picture, [picture.pixels_for(spec) for spec in specs]

    def warm_up(self) -> None:
        """Makes the first search as quick as the later ones: 160 ms otherwise, in Milvus Lite."""
        library = self.catalog.library(DEFAULT_LIBRARY)
        with contextlib.suppress(Unavailable):
            for model in self.models_of(library):
                spec = model.card.input
                blank = np.zeros((1, spec.height, spec.width, 3), np.uint8)
                [embedding] = model.embed_batch(blank)
                self.vectors.nearest(library.name, model.card, embedding, limit=1)

    def models_of(self, library: Library, wanted: Iterable[str] | None = None) -> list[Embedder]:
        """Returns the loaded models of a library, or those of them that are wanted.

        Raises:
            ModelNotFound: One is not of this library, or this worker does not have it.
        """
        names = list(dict.fromkeys(wanted)) if wanted is not None else library.models
        for name in names:
            if name not in library.models or name not in self.embedders:
                raise ModelNotFound(
                    f"Library {library.name!r} has no model {name!r}; it has {library.models}."
                )
        return [self.embedders[name] for name in names]


def build_runtime(settings: Settings, lane: Lane) -> Runtime:
    """Loads and verifies the models, connects, and tells the catalogue which models there are.

    Raises:
        ModelError: A model is not what its card says.
    """
    ensure_models(settings.models_dir)
    registry = Registry(settings.models_dir)
    embedders: dict[str, Embedder] = {
        card.name: registry.open(
            card.name, providers=settings.execution_providers, batch_size=settings.batch_size
        )
        for card in registry.cards()
    }
    redis = connect(settings.redis_url, n_retries=REDIS_RETRIES)
    catalog = Catalog(redis)
    catalog.publish_models(summary_of(embedder.card) for embedder in embedders.values())
    catalog.ensure_library(Library(name=DEFAULT_LIBRARY, models=list(embedders)))
    return Runtime(
        settings=settings,
        lane=lane,
        redis=redis,
        pictures=connect(settings.redis_url, n_retries=REDIS_RETRIES, decode=False),
        jobs=Jobs(redis),
        catalog=catalog,
        blobs=BlobStore(settings.blob_dir),
        vectors=Vectors(settings),
        embedders=embedders,
    )


def summary_of(card: Card) -> ModelSummary:
    """Returns what clients are told of a model."""
    return ModelSummary(**card.model_dump(mode="json", include=set(ModelSummary.model_fields)))
