"""What is written to Milvus, and read from it. Every call has a time limit.

Nothing is ever flushed. A real server compares new rows one by one, or by an index of its own, and
seals them when there are about 120 MB of them, or after 10 minutes without a write; then it builds
the index that was requested. Searches before that are just as right, but slower
(docs/decisions/0013-indexes.md).

Once a call to `upsert` or `delete` returns, every search sees what it did, whoever makes it. On a
real server, a strongly consistent search waits for a tick of the server's clock, and a bounded one
does not (docs/decisions/0012-freshness.md). So it is the writer that waits, once per call: a strong
read of what it wrote moves the server's view past it, for all readers.
"""

from __future__ import annotations

import functools
import logging
import threading
from itertools import islice
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import urlsplit

import grpc
import numpy as np
from cachetools import LRUCache
from pymilvus import MilvusClient, MilvusException

from twinlens.models.distances import pairwise_distances
from twinlens.shared.errors import Unavailable
from twinlens.shared.indexes import COMPRESSED, EXACT, Server, search_params, server_of
from twinlens.shared.loopback import is_loopback
from twinlens.workers.milvus.collection import (
    ID_FIELD,
    LOAD_S,
    VECTOR_FIELD,
    Collection,
    make_ready,
)
from twinlens.workers.milvus.expressions import (
    METADATA_FIELD,
    StoredFields,
    to_milvus,
    to_stored,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from twinlens.shared.filters.fields import Fields
    from twinlens.shared.filters.tree import Filter
    from twinlens.shared.settings import Settings

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

STRONG, BOUNDED = "Strong", "Bounded"
# What Python takes for each embedding that is kept, besides its numbers: of a hash, nearly all.
ENTRY_BYTES = 500
# Rows in one answer: 5 MB at 1,280 numbers a row; gRPC takes up to 64 MB.
READ_ROWS = 1000
# Fewest candidates to compare by their full vectors where an index has compressed these.
N_MEASURED = 100
# The most that a server gives in one answer.
MAX_ROWS = 16_384
# Rows in one answer where metadata is read: each may have 64 KB of it.
READ_METADATA = 256
_HEX_DIGITS = "0123456789abcdef"


def _needs_milvus(
    call: Callable[Concatenate[Vectors, P], R],
) -> Callable[Concatenate[Vectors, P], R]:
    @functools.wraps(call)
    def guarded(vectors: Vectors, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(vectors, *args, **kwargs)
        except MilvusException as error:
            vectors.forget_ready()
            raise Unavailable(f"Milvus did not answer as it should: {error.message}") from error
        except grpc.RpcError as error:
            # pymilvus lets it through when a call times out.
            raise Unavailable("Milvus did not answer in time.") from error

    return guarded


class Vectors:
    """A process's only Milvus client, made after the fork: gRPC does not survive one.

    Every method raises `Unavailable` if Milvus does not do what it was asked, and
    `ValidationFailed` if it cannot build a collection's index.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._timeout_s = settings.milvus_timeout_s
        self._ready: set[str] = set()
        self._lock = threading.Lock()
        self._cache: LRUCache[tuple[str, str, str], Any] = LRUCache(
            settings.cache_bytes, lambda row: row.nbytes + ENTRY_BYTES
        )

    @functools.cached_property
    def _client(self) -> MilvusClient:
        return self._connect(self._timeout_s)

    def _connect(self, timeout_s: float, *, is_anew: bool = False) -> MilvusClient:
        # Its errors arrive here as exceptions. In the log, an answer of "no" takes 40 lines.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        uri = self._settings.milvus_uri
        # gRPC takes grpc_proxy, https_proxy and http_proxy for any address, loopback too, unless
        # no_grpc_proxy or no_proxy names it; all of them in lower case only.
        parts = urlsplit(uri)
        has_proxy = not is_loopback(parts.hostname or "localhost")  # or a Unix socket
        # Milvus Lite hangs up on idle clients that ask if it is there, and nothing gets lost on a
        # Unix socket.
        never = {"grpc.keepalive_time_ms": 2**31 - 1} if parts.scheme == "unix" else {}
        return MilvusClient(
            uri=uri,
            token=self._settings.milvus_token,
            timeout=timeout_s,
            # Else it would have the connection of the one before, dead or not: pymilvus shares
            # the first of these, gRPC the second.
            dedicated=is_anew,
            grpc_options={
                "grpc.enable_http_proxy": int(has_proxy),
                "grpc.use_local_subchannel_pool": int(is_anew),
                **never,
            },
        )

    @_needs_milvus
    def renew_client(self, timeout_s: float) -> None:
        """Replaces the client by a new one, if Milvus answers that one.

        Args:
            timeout_s: Of each of its two calls.
        """
        client = self._connect(timeout_s, is_anew=True)
        try:
            client.list_collections(timeout=timeout_s)
        except BaseException:
            client.close()
            raise
        log.warning("Milvus answers a new client and not the one that there was: it is replaced")
        old, self._client = self.__dict__.get("_client"), client
        if old is not None:
            # Calls of it may still run, within their time limits.
            closing = threading.Timer(2 * LOAD_S, old.close)
            closing.daemon = True
            closing.start()

    @_needs_milvus
    def ping(self, timeout_s: float) -> None:
        self._client.list_collections(timeout=timeout_s)

    @_needs_milvus
    def upsert(
        self,
        collection: Collection,
        ids: Sequence[str],
        embeddings: Iterable[Any],
        fields: Iterable[Fields],
    ) -> None:
        """Writes one vector per id; repeating it changes nothing.

        Args:
            collection: Where to write.
            ids: Image ids, none twice.
            embeddings: One per id, float32 [dimension], or uint8 [dimension / 8] for a hash.
            fields: One per id: what filters look at.
        """
        rows = [
            {
                ID_FIELD: image_id,
                VECTOR_FIELD: collection.to_stored(embedding),
                METADATA_FIELD: to_stored(own),
            }
            for image_id, embedding, own in zip(ids, embeddings, fields, strict=True)
        ]
        name = self._ready_name(collection)
        self._client.upsert(name, rows, timeout=self._timeout_s)
        self._wait_until_seen(name, ids)

    @_needs_milvus
    def nearest(
        self, collection: Collection, embeddings: Any, limit: int, where: Filter | None = None
    ) -> list[dict[str, float]]:
        """Returns the ids nearest to each embedding, with their distances, nearest first.

        Args:
            collection: Where to look.
            embeddings: float32 [n, dimension], or uint8 [n, dimension / 8] for hashes.
            limit: Most ids per embedding.
            where: A filter that must be true of the images.
        """
        only = "" if where is None else self._expression(where)
        index = collection.index_on(self.server)
        n_listed = max(limit, N_MEASURED) if index.type in COMPRESSED else limit
        listed = self._search(collection, embeddings, n_listed, only)
        if index.type in EXACT:
            return listed
        ids = self._unlisted(collection.name, only, listed, n_listed)
        if not ids and index.type in COMPRESSED:
            ids = list({image_id for some in listed for image_id in some})
        if not ids:
            return listed
        return [_first(some, limit) for some in self._measure(collection, embeddings, ids)]

    @_needs_milvus
    def distances_to(
        self, collection: Collection, embeddings: Any, ids: Sequence[str]
    ) -> list[dict[str, float]]:
        """Returns each embedding's exact distances to the given images, nearest first.

        Args:
            collection: Where the images' embeddings are.
            embeddings: float32 [n, dimension], or uint8 [n, dimension / 8] for hashes.
            ids: The images. Those without an embedding there are left out.
        """
        only = f"{ID_FIELD} in {_id_list(ids)}"
        if collection.index_on(self.server).type in EXACT:
            return self._search(collection, embeddings, len(ids), only)
        return self._measure(collection, embeddings, ids)

    def _expression(self, where: Filter) -> str:
        return to_milvus(where, has_exists=not self.server.is_lite)

    def _search(
        self, collection: Collection, embeddings: Any, limit: int, only: str
    ) -> list[dict[str, float]]:
        hits = self._client.search(
            self._ready_name(collection),
            [collection.to_stored(embedding) for embedding in embeddings],
            filter=only,
            limit=limit,
            search_params={"params": search_params(collection.index_on(self.server), limit)},
            consistency_level=BOUNDED,
            timeout=self._timeout_s,
        )
        return [{hit[ID_FIELD]: float(hit["distance"]) for hit in some} for some in hits]

    def _unlisted(
        self, name: str, only: str, listed: Sequence[dict[str, float]], limit: int
    ) -> list[str]:
        """Returns all ids there are, if an index has missed some that a search had room for.

        An index that is split into lists searches only some of them for what matches a filter: of
        100 rows among 100,000, a search found 33. So does a real server's own index of new rows,
        whatever the index. If there are more than MAX_ROWS, none are returned.
        """
        n_listed = min(map(len, listed), default=limit)
        if n_listed >= limit or not n_listed < self._count(name, only) <= MAX_ROWS:
            return []
        rows = self._client.query(
            name,
            filter=only,
            output_fields=[ID_FIELD],
            limit=MAX_ROWS,
            consistency_level=BOUNDED,
            timeout=self._timeout_s,
        )
        return [row[ID_FIELD] for row in rows]

    def _measure(
        self, collection: Collection, embeddings: Any, ids: Sequence[str]
    ) -> list[dict[str, float]]:
        """Returns distances that are computed here, nearest first."""
        stored = self.fetch(collection, ids)
        if not stored:
            return [{} for _ in embeddings]
        rows = np.stack(list(stored.values()))
        sign = collection.card.metric.sign
        measured = []
        for distances in pairwise_distances(embeddings, rows, collection.card):
            by_id = zip(stored, distances.tolist(), strict=True)
            measured.append(dict(sorted(by_id, key=lambda one: (sign * one[1], one[0]))))
        return measured

    def fetch(self, collection: Collection, ids: Sequence[str]) -> dict[str, Any]:
        """Reads stored embeddings.

        What was read before comes from memory: a model always makes the same of one picture, and it
        is stored in full or in half. So an image that has been removed since may be among them.

        Returns:
            By id, float32 [dimension], or uint8 [dimension / 8] for a hash; an image that the model
            has not embedded is left out.
        """
        form = (collection.card.sha256, collection.dtype.str)
        keys = {image_id: (*form, image_id) for image_id in ids}
        with self._lock:
            rows = {i: row for i, key in keys.items() if (row := self._cache.get(key)) is not None}
        missing = [image_id for image_id in ids if image_id not in rows]
        if missing:
            read = self._read(collection, missing)
            rows |= read
            with self._lock:
                for image_id, row in read.items():
                    self._cache[keys[image_id]] = row
        return rows

    @_needs_milvus
    def _read(self, collection: Collection, ids: Sequence[str]) -> dict[str, Any]:
        rows = self._rows(self._ready_name(collection), ids)
        return {image_id: collection.from_stored(row) for image_id, row in rows}

    @_needs_milvus
    def read_stored(self, collection: Collection, ids: Sequence[str]) -> dict[str, Any]:
        """Reads embeddings from Milvus, to the bit. Where there is no collection, none is made.

        Returns:
            By id, what is stored: float32 or float16 [dimension], or uint8 [dimension / 8] for a
            hash; an image that the model has not embedded is left out.
        """
        name = collection.name
        if not self._client.has_collection(name, timeout=self._timeout_s):
            return {}
        self._client.load_collection(name, timeout=LOAD_S)
        return {image_id: collection.as_stored(row) for image_id, row in self._rows(name, ids)}

    def _rows(self, name: str, ids: Sequence[str]) -> Iterator[tuple[str, Any]]:
        for start in range(0, len(ids), READ_ROWS):
            rows = self._client.get(
                name,
                ids=list(ids[start : start + READ_ROWS]),
                output_fields=[VECTOR_FIELD],
                consistency_level=BOUNDED,
                timeout=self._timeout_s,
                # As arrays: turning them into lists and back took half of a read's time.
                strict_float32=True,
            )
            yield from ((row[ID_FIELD], row[VECTOR_FIELD]) for row in rows)

    @_needs_milvus
    def delete(self, collection: Collection, ids: Sequence[str]) -> None:
        name = self._ready_name(collection)
        self._client.delete(name, ids=list(ids), timeout=self._timeout_s)
        self._wait_until_seen(name, ids)

    @_needs_milvus
    def count(self, collection: Collection, where: Filter | None = None) -> int:
        """Returns how many images have an embedding there, of those that a filter is true of."""
        only = "" if where is None else self._expression(where)
        return self._count(self._ready_name(collection), only, level=STRONG)

    @_needs_milvus
    def count_stored(self, name: str) -> int:
        """Returns how many vectors a collection has; none, where there is no such collection."""
        if not self._client.has_collection(name, timeout=self._timeout_s):
            return 0
        return self._count(name)

    @_needs_milvus
    def ids(self, collection: Collection, begin: str = "") -> set[str]:
        """Returns the ids that have an embedding there; none, where there is no such collection.

        Args:
            collection: Where to look.
            begin: How the ids begin, in hexadecimal digits.
        """
        if not self._client.has_collection(collection.name, timeout=self._timeout_s):
            return set()
        return self._ids(self._ready_name(collection), begin)

    def _ids(self, name: str, begin: str) -> set[str]:
        rows = self._client.query(
            name,
            # No digit is greater than g.
            filter=f'{ID_FIELD} >= "{begin}0" and {ID_FIELD} < "{begin}g"',
            output_fields=[ID_FIELD],
            limit=MAX_ROWS,
            consistency_level=STRONG,
            timeout=self._timeout_s,
        )
        if len(rows) < MAX_ROWS:
            return {row[ID_FIELD] for row in rows}
        return set().union(*(self._ids(name, begin + digit) for digit in _HEX_DIGITS))

    @_needs_milvus
    def fields(self, collection: Collection, ids: Sequence[str]) -> dict[str, StoredFields]:
        """Reads what filters look at, as it is stored, of the images that are there."""
        name = self._ready_name(collection)
        stored: dict[str, StoredFields] = {}
        for start in range(0, len(ids), READ_METADATA):
            rows = self._client.get(
                name,
                ids=list(ids[start : start + READ_METADATA]),
                output_fields=[METADATA_FIELD],
                consistency_level=STRONG,
                timeout=self._timeout_s,
            )
            stored |= {row[ID_FIELD]: row[METADATA_FIELD] for row in rows}
        return stored

    @_needs_milvus
    def has(self, name: str) -> bool:
        """Returns whether there is a collection of this name."""
        return bool(self._client.has_collection(name, timeout=self._timeout_s))

    @_needs_milvus
    def drop(self, name: str) -> None:
        """Removes a collection, if it exists."""
        self._client.drop_collection(name, timeout=self._timeout_s)
        self._ready.discard(name)

    def _wait_until_seen(self, name: str, ids: Sequence[str]) -> None:
        # With Milvus Lite, every search sees at once what was written.
        if self.server.is_lite:
            return
        self._client.get(
            name,
            ids=[ids[0]],
            output_fields=[ID_FIELD],
            consistency_level=STRONG,
            timeout=self._timeout_s,
        )

    def _count(self, name: str, only: str = "", level: str = BOUNDED) -> int:
        [row] = self._client.query(
            name,
            filter=only,
            output_fields=["count(*)"],
            consistency_level=level,
            timeout=self._timeout_s,
        )
        return int(row["count(*)"])

    @functools.cached_property
    @_needs_milvus
    def server(self) -> Server:
        """The server that is connected. Milvus Lite reports no version."""
        try:
            version = self._client.get_server_version(timeout=self._timeout_s)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return server_of(None)
            raise
        return server_of(version)

    def forget_ready(self) -> None:
        """Has collections looked at again before they are used: some may be gone."""
        self._ready.clear()

    def _ready_name(self, collection: Collection) -> str:
        """Returns the collection's name; on first use, creates what it still lacks."""
        name = collection.name
        if name not in self._ready:
            make_ready(self._client, collection, self.server, self._timeout_s)
            self._ready.add(name)
        return name


def _first(distances: dict[str, float], limit: int) -> dict[str, float]:
    return dict(islice(distances.items(), limit))


def _id_list(ids: Sequence[str]) -> str:
    """Returns a filter's list of ids. They are hex digits, so quoting cannot go wrong."""
    if not all(image_id.isalnum() for image_id in ids):
        raise ValueError("an image id is not hexadecimal")
    return "[" + ",".join(f'"{image_id}"' for image_id in ids) + "]"
