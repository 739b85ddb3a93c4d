"""The catalogue in Redis: which libraries and models there are, and each image's record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twinlens.shared.errors import ImageNotFound, LibraryNotFound, ModelNotFound
from twinlens.shared.messages import CatalogEntry, Cursor, Library, ModelSummary
from twinlens.shared.timeline import page_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis import Redis
    from redis.client import Pipeline

LIBRARIES = "tl:libraries"
MODELS = "tl:models"
# Seconds that a picture of a library took lately, by library.
COSTS = "tl:costs"


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
        """Says which models there are; those that were there before are forgotten."""
        with self._redis.pipeline() as pipeline:
            pipeline.delete(MODELS)
            for card in cards:
                pipeline.hset(MODELS, card.ref, card.model_dump_json())
            pipeline.execute()

    def models(self) -> dict[str, ModelSummary]:
        """Returns the models that there are, by name@version."""
        stored = self._redis.hgetall(MODELS)
        return {
            str(ref): ModelSummary.model_validate_json(text) for ref, text in sorted(stored.items())
        }

    def model(self, ref: str) -> ModelSummary:
        """Reads one model, named with its version or, if there is only one, without.

        Raises:
            ModelNotFound: There is none, or there are several.
        """
        models = self.models()
        found = [one for one in models.values() if ref in (one.name, one.ref)]
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(one.ref for one in found)
            raise ModelNotFound(f"Model {ref!r} has several versions; name one of: {several}.")
        raise ModelNotFound(
            f"There is no model {ref!r}; there are: {', '.join(models) or 'none yet'}."
        )

    def put_library(self, library: Library) -> None:
        """Creates a library, or replaces its record."""
        self._redis.hset(LIBRARIES, library.name, library.model_dump_json())

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

    def note_cost(self, pipeline: Pipeline, library: str, picture_s: float) -> None:
        """Queues to say how long a picture of a library takes with all its models, on one core."""
        pipeline.hset(COSTS, library, repr(picture_s))

    def cost_s(self, library: str) -> float | None:
        """Returns how long a picture took lately; None before the first."""
        text: Any = self._redis.hget(COSTS, library)
        return None if text is None else float(text)

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
