"""Turns the pictures of a query, sent or stored, into embeddings of every model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from twinlens.models.bits import signs_of
from twinlens.models.card import OutputKind
from twinlens.models.pictures import WHOLE, Region
from twinlens.models.variants import variants_of
from twinlens.models.words import NEGATIVE_SHARE
from twinlens.shared.errors import BadRequest, ImageNotFound
from twinlens.shared.redis import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from twinlens.models.card import Card
    from twinlens.models.session import Embedder, Pixels
    from twinlens.shared.queries import QueryPart, SearchQuery
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.shared.redis.client import RawRedis
    from twinlens.workers.decoding import Decoder
    from twinlens.workers.library.images import Images
    from twinlens.workers.milvus.collection import Collection
    from twinlens.workers.milvus.vectors import Vectors
    from twinlens.workers.query.neighbours import Stored
    from twinlens.workers.targets import Target

# By model: [v, dim] or [v, dim / 8], v variants of the query.
QueryEmbeddings = dict[str, "NDArray[Any]"]


class NumSent(NamedTuple):
    """How many pictures were sent with a query; they are in Redis, the positive ones first."""

    n_positive: int = 0
    n_negative: int = 0


@dataclass(frozen=True)
class Query:
    """What is asked, the pictures that came with it, and the models to ask."""

    asked: SearchQuery
    library_id: str
    targets: Sequence[Target]
    positive: Sequence[bytes] = ()
    negative: Sequence[bytes] = ()

    @property
    def collections(self) -> dict[str, Collection]:
        return {target.model.card.name: target.collection for target in self.targets}

    @property
    def models(self) -> list[Embedder]:
        return [target.model for target in self.targets]

    @property
    def has_examples(self) -> bool:
        """Whether pictures show what to look for."""
        return bool(self.positive or self.asked.example_ids)

    @property
    def n_pictures(self) -> int:
        """How many pictures show what to look for, or what to avoid."""
        n_stored = len(self.asked.example_ids) + len(self.asked.negative)
        return len(self.positive) + len(self.negative) + n_stored

    @property
    def knowing(self) -> dict[str, Target]:
        """The models that understand words."""
        return {
            target.model.card.name: target
            for target in self.targets
            if target.model.card.text is not None
        }

    @property
    def asked_with(self) -> dict[str, list[QueryPart]]:
        """What of the query each model is asked with."""
        pictures: list[QueryPart] = ["pictures"] if self.n_pictures else []
        words: list[QueryPart] = ["words"] if self.asked.has_words else []
        knowing = self.knowing
        return {name: pictures + (words if name in knowing else []) for name in self.collections}


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Makes embeddings of what is looked for, with the models in parallel."""

    sent_pictures: RawRedis  # holds the pictures that were sent with a query; gives bytes
    catalog: Catalog
    images: Images
    decoder: Decoder
    vectors: Vectors
    threads: Executor  # run the models; onnxruntime and gRPC both release the GIL

    def read_sent(self, job_id: str, n_pictures: int) -> list[bytes]:
        """Reads the pictures that were sent with a request.

        Raises:
            BadRequest: They waited too long, and have expired.
        """
        if n_pictures == 0:
            return []
        names = [keys.query_picture(job_id, number) for number in range(n_pictures)]
        pictures: list[Any] = self.sent_pictures.mget(names)
        if None in pictures:
            raise BadRequest("The query picture waited too long and has expired; send it again.")
        return pictures

    def embed(self, query: Query, lap: Callable[[str], None]) -> QueryEmbeddings:
        """Returns the embeddings of a query's pictures; none if it has none.

        Args:
            query: The query.
            lap: Called with `decode` and `embed`, as each of these stages ends.

        Raises:
            PictureError: A picture is refused.
            ImageNotFound: A stored image, or a model's embedding of it, is missing.
        """
        asked = query.asked
        ids = asked.example_ids
        if not query.n_pictures:
            return {}
        if query.n_pictures > 1 or not query.has_examples:
            rows = self._combine(query)
        elif ids and asked.region is None and asked.mode == "similar":
            stored = self._fetch_examples(query, ids)
            rows = {name: by_id[ids[0]][None] for name, by_id in stored.items()}
        else:
            rows = self._embed_one(query, self.read_one(query), lap)
        lap("embed")
        return rows

    def read_one(self, query: Query) -> bytes:
        """Reads the picture of a query that has one.

        Raises:
            ImageNotFound: It is a stored image that is missing.
        """
        if query.positive:
            return query.positive[0]
        return self.images.read(query.library_id, query.asked.example_ids[0])

    def fetch(self, collections: dict[str, Collection], ids: Sequence[str]) -> Stored:
        """Reads the embeddings of some images under several models.

        Raises:
            Unavailable: Milvus does not answer.
        """
        by_model = self.threads.map(
            lambda collection: self.vectors.fetch(collection, ids), collections.values()
        )
        return dict(zip(collections, by_model, strict=True))

    def _embed_one(
        self, query: Query, content: bytes, lap: Callable[[str], None]
    ) -> QueryEmbeddings:
        """Embeds the only query picture, or its region; for `near`, its variants."""
        asked, cards = query.asked, [model.card for model in query.models]
        region = WHOLE if asked.region is None else Region(*asked.region)
        picture = self.decoder.open(content, query.models, region)
        if asked.mode == "near":
            has_hash = any(card.output is OutputKind.BITS for card in cards)
            pixels = [variants_of(picture, card, has_hash=has_hash) for card in cards]
        else:
            pixels = [picture.pixels_for(card.input)[None] for card in cards]
        lap("decode")
        return self._run(query, pixels)

    def _run(self, query: Query, pixels: Sequence[Pixels]) -> QueryEmbeddings:
        """Embeds pixels, [v, height, width, 3] for each model."""
        rows = self.threads.map(lambda model, some: model.embed_batch(some), query.models, pixels)
        return {model.card.name: some for model, some in zip(query.models, rows, strict=True)}

    def _combine(self, query: Query) -> QueryEmbeddings:
        """Combines several examples and counter-examples into one query.

        Source: Rocchio, Relevance Feedback in Information Retrieval, 1971: the mean of the examples
        less a share of the mean of the others.
        """
        asked = query.asked
        self.decoder.check_together([*query.positive, *query.negative])
        stored = self._fetch_examples(query, [*asked.example_ids, *asked.negative])
        liked = [self._embed_whole(query, content) for content in query.positive]
        disliked = [self._embed_whole(query, content) for content in query.negative]
        rows = {}
        for model in query.models:
            name = model.card.name
            positive = [one[name][0] for one in liked]
            positive += [stored[name][image_id] for image_id in asked.example_ids]
            negative = [one[name][0] for one in disliked]
            negative += [stored[name][image_id] for image_id in asked.negative]
            rows[name] = _rocchio(positive, negative, model.card)[None]
        return rows

    def _fetch_examples(self, query: Query, ids: Sequence[str]) -> Stored:
        """Reads embeddings of stored images, all of which must exist."""
        self.catalog.get_all(query.library_id, ids)
        if not ids:
            return {name: {} for name in query.collections}
        stored = self.fetch(query.collections, ids)
        for name, by_id in stored.items():
            for image_id in ids:
                if image_id not in by_id:
                    raise ImageNotFound(f"Model {name!r} has no embedding of image {image_id!r}.")
        return stored

    def _embed_whole(self, query: Query, content: bytes) -> QueryEmbeddings:
        _, pixels = self.decoder.decode(content, query.models)
        return self._run(query, [one[None] for one in pixels])


def _rocchio(positive: Sequence[Any], negative: Sequence[Any], card: Card) -> NDArray[Any]:
    """Returns an embedding like those the model makes: of length 1, or packed bits."""
    is_bits = card.output is OutputKind.BITS
    mean = np.zeros(card.dimension, np.float32)
    if positive:
        mean += _mean(positive, is_bits)
    if negative:
        mean -= np.float32(NEGATIVE_SHARE) * _mean(negative, is_bits)
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
