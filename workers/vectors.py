"""Milvus: one collection per library, model and version. Every call has a time limit."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import grpc
import numpy as np
from cachetools import LRUCache
from pymilvus import DataType, MilvusClient, MilvusException

from twinlens.models.card import Card, OutputKind
from twinlens.shared.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from twinlens.shared.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

ID_FIELD = "id"
VECTOR_FIELD = "embedding"
ID_LENGTH = 64  # hex digits of SHA-256
# Embeddings that a process keeps: some 13,000 of 1,280 numbers. A hundred take 12 ms to be read.
CACHE_BYTES = 64 * 1024 * 1024


def collection_of(library: str, card: Card) -> str:
    """Returns the collection's name. Versions never share one, so their vectors never mix."""
    return f"tl_{library.replace('-', '_')}__{card.key}"


def _needs_milvus(call: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(call)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except MilvusException as error:
            raise Unavailable(f"Milvus did not answer as it should: {error.message}") from error
        except grpc.RpcError as error:
            # pymilvus lets it through where a call's time is up.
            raise Unavailable("Milvus did not answer in time.") from error

    return guarded


class Vectors:
    """A process's one Milvus client, made after fork: gRPC does not survive a fork.

    Every method raises `Unavailable` where Milvus does not do what it was asked.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._timeout_s = settings.milvus_timeout_s
        self._ready: set[str] = set()
        self._lock = threading.Lock()
        self._cache: LRUCache[tuple[str, str], Any] = LRUCache(CACHE_BYTES, lambda row: row.nbytes)

    @functools.cached_property
    def _client(self) -> MilvusClient:
        return MilvusClient(
            uri=self._settings.milvus_uri,
            token=self._settings.milvus_token,
            timeout=self._timeout_s,
        )

    @_needs_milvus
    def ping(self, timeout_s: float) -> None:
        self._client.list_collections(timeout=timeout_s)

    @_needs_milvus
    def upsert(
        self, library: str, card: Card, ids: Sequence[str], embeddings: Iterable[Any]
    ) -> None:
        """Writes one vector per id; repeating it changes nothing.

        Args:
            library: The library.
            card: The model that made the vectors.
            ids: Image ids, none twice.
            embeddings: Of each id, float32 [dimension], or uint8 [dimension / 8] for a hash.
        """
        rows = [
            {ID_FIELD: image_id, VECTOR_FIELD: _to_milvus(embedding)}
            for image_id, embedding in zip(ids, embeddings, strict=True)
        ]
        self._client.upsert(self._collection(library, card), rows, timeout=self._timeout_s)

    @_needs_milvus
    def nearest(
        self,
        library: str,
        card: Card,
        embedding: Any,
        limit: int,
        among: Sequence[str] | None = None,
    ) -> dict[str, float]:
        """Returns the ids nearest to an embedding and their distances, nearest first.

        Args:
            library: The library.
            card: The model that made the embedding.
            embedding: float32 [dimension], or uint8 [dimension / 8] for a hash.
            limit: How many at most.
            among: Only these ids, so that each gets its exact distance.
        """
        only = "" if among is None else f"{ID_FIELD} in {_id_list(among)}"
        [hits] = self._client.search(
            self._collection(library, card),
            [_to_milvus(embedding)],
            filter=only,
            limit=limit,
            timeout=self._timeout_s,
        )
        return {hit[ID_FIELD]: float(hit["distance"]) for hit in hits}

    def fetch(self, library: str, card: Card, ids: Sequence[str]) -> dict[str, Any]:
        """Reads stored embeddings.

        What was read before comes from memory: of one picture, a model always makes the same. So
        an image that has been removed since may be among them.

        Returns:
            By id, float32 [dimension], or uint8 [dimension / 8] for a hash; nothing of an image
            that the model has not embedded.
        """
        keys = {image_id: (card.sha256, image_id) for image_id in ids}
        with self._lock:
            found = {i: row for i, key in keys.items() if (row := self._cache.get(key)) is not None}
        missing = [image_id for image_id in ids if image_id not in found]
        if missing:
            read = self._read(library, card, missing)
            found |= read
            with self._lock:
                for image_id, row in read.items():
                    self._cache[keys[image_id]] = row
        return found

    @_needs_milvus
    def _read(self, library: str, card: Card, ids: Sequence[str]) -> dict[str, Any]:
        rows = self._client.get(
            self._collection(library, card),
            ids=list(ids),
            output_fields=[VECTOR_FIELD],
            timeout=self._timeout_s,
        )
        return {row[ID_FIELD]: _from_milvus(row[VECTOR_FIELD], card) for row in rows}

    @_needs_milvus
    def delete(self, library: str, card: Card, image_id: str) -> None:
        self._client.delete(
            self._collection(library, card), ids=[image_id], timeout=self._timeout_s
        )

    @_needs_milvus
    def count(self, library: str, card: Card) -> int:
        [row] = self._client.query(
            self._collection(library, card), output_fields=["count(*)"], timeout=self._timeout_s
        )
        return int(row["count(*)"])

    def _collection(self, library: str, card: Card) -> str:
        """Returns the collection's name; creates it once, whoever comes first."""
        name = collection_of(library, card)
        with self._lock:
            if name not in self._ready:
                if not self._client.has_collection(name, timeout=self._timeout_s):
                    self._create(name, card)
                self._ready.add(name)
        return name

    def _create(self, name: str, card: Card) -> None:
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(ID_FIELD, DataType.VARCHAR, is_primary=True, max_length=ID_LENGTH)
        kind = DataType.BINARY_VECTOR if _is_binary(card) else DataType.FLOAT_VECTOR
        schema.add_field(VECTOR_FIELD, kind, dim=card.dimension)
        index = self._client.prepare_index_params()
        index.add_index(
            VECTOR_FIELD,
            index_type="BIN_FLAT" if _is_binary(card) else "FLAT",
            metric_type=card.metric,
        )
        try:
            self._client.create_collection(
                name, schema=schema, index_params=index, timeout=self._timeout_s
            )
        except MilvusException:
            # Another process may have been quicker.
            if not self._client.has_collection(name, timeout=self._timeout_s):
                raise


def _is_binary(card: Card) -> bool:
    return card.output is OutputKind.BITS


def _to_milvus(embedding: Any) -> Any:
    return embedding.tobytes() if embedding.dtype == np.uint8 else embedding


def _from_milvus(stored: Any, card: Card) -> Any:
    if _is_binary(card):
        return np.frombuffer(stored[0], dtype=np.uint8)
    return np.asarray(stored, dtype=np.float32)


def _id_list(ids: Sequence[str]) -> str:
    """Returns a filter's list of ids. They are hex digits, so quoting cannot go wrong."""
    if not all(image_id.isalnum() for image_id in ids):
        raise ValueError("an image id is not hexadecimal")
    return "[" + ",".join(f'"{image_id}"' for image_id in ids) + "]"
