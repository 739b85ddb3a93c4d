"""A Milvus collection: what it holds, how a vector is stored in it, and how it is created."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pymilvus import DataType, MilvusException

from twinlens.models.card import Card, OutputKind
from twinlens.models.distances import Metric
from twinlens.shared.errors import FieldError, ValidationFailed, pointer
from twinlens.shared.indexes import Server, build_params, check_index, resolve
from twinlens.shared.libraries import Index
from twinlens.workers.milvus.expressions import METADATA_FIELD

if TYPE_CHECKING:
    from pymilvus import MilvusClient

    from twinlens.shared.libraries import Edition

ID_FIELD = "id"
VECTOR_FIELD = "embedding"
ID_LENGTH = 64  # hex digits of SHA-256
KINDS = {
    np.dtype(np.uint8): DataType.BINARY_VECTOR,
    np.dtype(np.float16): DataType.FLOAT16_VECTOR,
    np.dtype(np.float32): DataType.FLOAT_VECTOR,
}
# A real server takes 2 to 3 s to load an empty collection, and more for one that has rows.
LOAD_S = 60.0
# A server's error codes for a parameter that it does not take: until 2.3, and since.
REFUSED = (65535, 1100)


@dataclass(frozen=True)
class Collection:
    """A model's vectors in a library. It is never changed: another index needs a new one."""

    name: str
    card: Card  # with the library's metric
    index: Index

    @property
    def is_binary(self) -> bool:
        return self.card.output is OutputKind.BITS

    @property
    def dtype(self) -> np.dtype[Any]:
        """What Milvus keeps: packed bits, or numbers of 2 or 4 bytes."""
        if self.is_binary:
            return np.dtype(np.uint8)
        return np.dtype(np.float16 if self.index.vector == "FLOAT16" else np.float32)

    def index_on(self, server: Server) -> Index:
        """Returns the index that a server builds for it."""
        return Index(type="FLAT") if self.is_binary else resolve(self.index, server)

    def to_stored(self, embedding: Any) -> Any:
        """Returns an embedding as the client takes it."""
        if self.is_binary:
            return embedding.tobytes()
        return embedding.astype(self.dtype, copy=False)

    def as_stored(self, stored: Any) -> Any:
        """Returns what the client gave as an array of `dtype`, to the bit."""
        if self.dtype == np.float32:
            # A copy: otherwise, one row that is kept would keep all rows of the answer.
            return np.array(stored, np.float32)
        return np.frombuffer(stored[0], self.dtype)

    def from_stored(self, stored: Any) -> Any:
        """Returns an embedding that the client gave: float32, or uint8 of packed bits."""
        row = self.as_stored(stored)
        return row if self.is_binary else row.astype(np.float32, copy=False)


def collection_of(edition: Edition, card: Card) -> Collection:
    """Returns the collection of a model's vectors in an edition."""
    if edition.metric is not None and card.output is OutputKind.FLOAT32:
        card = card.model_copy(update={"metric": Metric(edition.metric)})
    return Collection(edition.collections[card.ref], card, edition.index)


def make_ready(
    client: MilvusClient, collection: Collection, server: Server, timeout_s: float
) -> None:
    """Creates what a collection still lacks, and loads it.

    Several processes may do so at once, and one may have been interrupted halfway.

    Raises:
        ValidationFailed: The server cannot build the collection's index.
        MilvusException: The server does not do what it was asked.
    """
    name = collection.name
    if not client.has_collection(name, timeout=timeout_s):
        _create(client, collection, server, timeout_s)
    if not client.list_indexes(name, timeout=timeout_s):
        _build_index(client, collection, server, timeout_s)
    client.load_collection(name, timeout=LOAD_S)


def _create(client: MilvusClient, collection: Collection, server: Server, timeout_s: float) -> None:
    name, card = collection.name, collection.card
    if not collection.is_binary:
        errors = check_index(collection.index, {card.ref: card.dimension}, server)
        if errors:
            raise ValidationFailed(f"{server.title} cannot build the index.", errors)
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(ID_FIELD, DataType.VARCHAR, is_primary=True, max_length=ID_LENGTH)
    schema.add_field(VECTOR_FIELD, KINDS[collection.dtype], dim=card.dimension)
    schema.add_field(METADATA_FIELD, DataType.JSON)
    try:
        client.create_collection(name, schema=schema, timeout=timeout_s)
    except MilvusException:
        # Another process may have been quicker.
        if not client.has_collection(name, timeout=timeout_s):
            raise


def _build_index(
    client: MilvusClient, collection: Collection, server: Server, timeout_s: float
) -> None:
    name, card, index = collection.name, collection.card, collection.index_on(server)
    params = client.prepare_index_params()
    params.add_index(
        VECTOR_FIELD,
        index_type="BIN_FLAT" if collection.is_binary else index.type,
        metric_type=card.metric,
        params=build_params(index, card.dimension),
    )
    try:
        # Without rows there is nothing to wait for, and pymilvus would ask after 0.5 s.
        client.create_index(name, params, timeout=timeout_s, sync=False)
    except MilvusException as error:
        if client.list_indexes(name, timeout=timeout_s):
            return
        if error.code not in REFUSED:
            raise
        client.drop_collection(name, timeout=timeout_s)
        raise ValidationFailed(
            f"{server.title} refuses the index.",
            [FieldError(location=pointer("index"), message=error.message)],
        ) from error
