"""What is looked for: pictures, stored images or words become embeddings of every model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from twinlens.models.bits import signs_of
from twinlens.models.card import OutputKind
from twinlens.models.pictures import WHOLE, Region
from twinlens.models.variants import variants_of
from twinlens.shared.errors import BadRequest, ImageNotFound
from twinlens.shared.redis import keys
from twinlens.workers.library.images import read_stored
from twinlens.workers.query.neighbours import fetch_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from twinlens.models.card import Card
    from twinlens.models.session import Embedder, Pixels
    from twinlens.shared.messages import SearchQuery
    from twinlens.workers.milvus.collection import Collection
    from twinlens.workers.process.runtime import Runtime, Target

# By how much counter-examples count beside examples: gamma / beta of Rocchio, as recommended by
# Manning, Raghavan, Schütze, Introduction to Information Retrieval, 2008, section 9.1.1.
NEGATIVE_SHARE = 0.2

Rows = dict[str, "NDArray[Any]"]  # by model: [v, dim] or [v, dim / 8], v variants of the query


class Sent(NamedTuple):
    """How many pictures were sent with a query; they lie in Redis, the positive ones first."""

    n_positive: int = 0
    n_negative: int = 0


@dataclass(frozen=True)
class Asked:
    """A query, and what it is asked of."""

    runtime: Runtime
    query: SearchQuery
    targets: Sequence[Target]
    positive: Sequence[bytes] = ()
    negative: Sequence[bytes] = ()

    @property
    def collections(self) -> dict[str, Collection]:
        return {target.model.card.name: target.collection for target in self.targets}

    @property
    def models(self) -> list[Embedder]:
        return [target.model for target in self.targets]


def query_rows(asked: Asked, lap: Callable[[str], None]) -> Rows:
    """Returns the embeddings that are looked for.

    Args:
        asked: The query.
        lap: Told when the stages `decode` and `embed` have ended.

    Raises:
        BadRequest: The query has words, and no model understands them.
        PictureError: A picture is refused.
        ImageNotFound: A stored image is not there.
    """
    query = asked.query
    ids = query.example_ids
    n_examples = len(asked.positive) + len(asked.negative) + len(ids) + len(query.negative)
    if query.text is not None:
        rows = _embed_words(asked, query.text)
    elif n_examples > 1:
        rows = _combine(asked)
    elif ids and query.region is None and query.mode == "similar":
        rows = {name: found[ids[0]][None] for name, found in _stored_rows(asked, ids).items()}
    else:
        content = (
            asked.positive[0]
            if asked.positive
            else read_stored(asked.runtime, query.library, ids[0])
        )
        rows = _embed_one(asked, content, lap)
    lap("embed")
    return rows


def read_pictures(runtime: Runtime, job_id: str, n_pictures: int) -> list[bytes]:
    """Reads the pictures that were sent with a request.

    Raises:
        BadRequest: They waited too long.
    """
    if n_pictures == 0:
        return []
    found: list[Any] = runtime.pictures.mget(
        [keys.query_picture(job_id, n) for n in range(n_pictures)]
    )
    if None in found:
        raise BadRequest("The query picture waited too long and is gone; search again.")
    return found


def _embed_words(asked: Asked, text: str) -> Rows:
    if not asked.models:
        raise BadRequest("No model that was asked has a text encoder.")
    return {
        model.card.name: asked.runtime.text_encoder(model).encode(text)[None]
        for model in asked.models
    }


def _embed_one(asked: Asked, content: bytes, lap: Callable[[str], None]) -> Rows:
    """Embeds the one picture that is looked for, or a region of it; for `near`, its variants."""
    query, cards = asked.query, [model.card for model in asked.models]
    region = WHOLE if query.region is None else Region(*query.region)
    picture = asked.runtime.open(content, asked.models, region)
    if query.mode == "near":
        has_hash = any(card.output is OutputKind.BITS for card in cards)
        pixels = [variants_of(picture, card, has_hash=has_hash) for card in cards]
    else:
        pixels = [picture.pixels_for(card.input)[None] for card in cards]
    lap("decode")
    return _embed(asked, pixels)


def _embed(asked: Asked, pixels: Sequence[Pixels]) -> Rows:
    """Embeds pixels, [v, height, width, 3] of each model, under all models side by side."""
    rows = asked.runtime.searchers.map(
        lambda model, some: model.embed_batch(some), asked.models, pixels
    )
    return {model.card.name: some for model, some in zip(asked.models, rows, strict=True)}


def _combine(asked: Asked) -> Rows:
    """Makes one query of several examples and counter-examples.

    Source: Rocchio, Relevance Feedback in Information Retrieval, 1971: the mean of the examples
    less a share of the mean of the others.
    """
    query = asked.query
    stored = _stored_rows(asked, [*query.example_ids, *query.negative])
    liked = [_embed_whole(asked, content) for content in asked.positive]
    disliked = [_embed_whole(asked, content) for content in asked.negative]
    rows = {}
    for model in asked.models:
        name = model.card.name
        positive = [one[name][0] for one in liked] + [stored[name][i] for i in query.example_ids]
        negative = [one[name][0] for one in disliked] + [stored[name][i] for i in query.negative]
        rows[name] = _rocchio(positive, negative, model.card)[None]
    return rows


def _stored_rows(asked: Asked, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Reads embeddings of stored images, by model and id."""
    asked.runtime.catalog.get_all(asked.query.library, ids)
    if not ids:
        return {name: {} for name in asked.collections}
    stored = fetch_all(asked.runtime, asked.collections, ids)
    for name, found in stored.items():
        for image_id in ids:
            if image_id not in found:
                raise ImageNotFound(f"Model {name!r} has no embedding of image {image_id!r}.")
    return stored


def _embed_whole(asked: Asked, content: bytes) -> Rows:
    _, pixels = asked.runtime.decode(content, asked.models)
    return _embed(asked, [one[None] for one in pixels])


def _rocchio(positive: Sequence[Any], negative: Sequence[Any], card: Card) -> NDArray[Any]:
    """Returns an embedding as the model makes them: of length 1, or packed bits."""
    is_bits = card.output is OutputKind.BITS
    mean = _mean(positive, is_bits)
    if negative:
        mean = mean - NEGATIVE_SHARE * _mean(negative, is_bits)
    if is_bits:
        return np.packbits(mean > 0)
    # Examples that cancel each other out leave no direction: then none is nearer than another.
    length = np.float32(np.linalg.norm(mean)) or np.float32(1)
    return (mean / length).astype(np.float32)


def _mean(rows: Sequence[Any], is_bits: bool) -> NDArray[np.float32]:
    stacked = np.stack(rows)
    if is_bits:
        stacked = signs_of(stacked)
    mean: NDArray[np.float32] = stacked.mean(axis=0, dtype=np.float32)
    return mean
