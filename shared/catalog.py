"""The catalogue in Redis: which libraries and models there are, and each image's record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.shared.errors import ImageNotFound, LibraryNotFound
from twinlens.shared.messages import CatalogEntry, Cursor, Library, ModelSummary
from twinlens.shared.timeline import page_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis import Redis
    from redis.client import Pipeline

LIBRARIES = "tl:libraries"
MODELS = "tl:models"


def _records(library: str) -> str:
    return f"tl:library:{library}:images"


def _order(library: str) -> str:
    return f"tl:library:{library}:order"


class Catalog:
    """Images, libraries and model cards. Rebuilt from the blob store if it is lost."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    # Models and libraries: what the workers serve, written by them, read by the API.

    def publish_models(self, cards: Iterable[ModelSummary]) -> None:
        cards = list(cards)
        self._redis.hset(MODELS, mapping={card.name: card.model_dump_json() for card in cards})

    def models(self) -> dict[str, ModelSummary]:
        stored = self._redis.hgetall(MODELS)
        return {
            str(name): ModelSummary.model_validate_json(text)
            for name, text in sorted(stored.items())
        }

    def ensure_library(self, library: Library) -> None:
        """Creates a library unless it is there."""
        self._redis.hsetnx(LIBRARIES, library.name, library.model_dump_json())

    def library(self, name: str) -> Library:
        """Reads a library.

        Raises:
            LibraryNotFound: There is none of this name.
        """
        text = self._redis.hget(LIBRARIES, name)
        if text is None:
            raise LibraryNotFound(
                f"There is no library {name!r}; GET /v1/libraries lists those there are."
            )
        return Library.model_validate_json(text)

    def libraries(self) -> list[Library]:
        stored = self._redis.hgetall(LIBRARIES)
        return [Library.model_validate_json(text) for _, text in sorted(stored.items())]

    # Images.

    def add(self, pipeline: Pipeline, entry: CatalogEntry) -> None:
        """Queues the writing of an image on a pipeline. Repeating it changes nothing."""
        image = entry.image
        pipeline.hset(_records(image.library), image.id, entry.model_dump_json())
        pipeline.zadd(_order(image.library), {image.id: image.added_at.timestamp()}, nx=True)

    def find(self, library: str, image_ids: Sequence[str]) -> dict[str, CatalogEntry]:
        """Reads those of the images that there are."""
        if not image_ids:
            return {}
        texts = self._redis.hmget(_records(library), list(image_ids))
        return {
            image_id: CatalogEntry.model_validate_json(text)
            for image_id, text in zip(image_ids, texts, strict=True)
            if text is not None
        }

    def get(self, library: str, image_id: str) -> CatalogEntry:
        """Reads one image.

        Raises:
            ImageNotFound: The library has none of this id.
        """
        entry = self.find(library, [image_id]).get(image_id)
        if entry is None:
            raise ImageNotFound(f"Library {library!r} has no image {image_id!r}.")
        return entry

    def remove(self, library: str, image_id: str) -> None:
        with self._redis.pipeline() as pipeline:
            pipeline.hdel(_records(library), image_id)
            pipeline.zrem(_order(library), image_id)
            pipeline.execute()

    def count(self, library: str) -> int:
        return int(self._redis.zcard(_order(library)))

    def page(
        self, library: str, limit: int, after: Cursor | None
    ) -> tuple[list[CatalogEntry], Cursor | None]:
        """Lists images, newest first, and where the next page begins."""
        ids, cursor = page_of(self._redis, _order(library), limit, after)
        found = self.find(library, ids)
        return [found[image_id] for image_id in ids if image_id in found], cursor
