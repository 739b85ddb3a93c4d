"""What an index finds of what is there: `python -m benchmarks.recall [--quick] [--index TYPE]`.

On the real Milvus, with vectors like those of photos: embeddings of some real ones, each new vector
one of them, moved towards a second and by a part of the difference of two more. So they lie in
clusters, along the directions in which photos differ; queries are made in the same way. Printed
are recall@10 against all distances, for HNSW with each `ef`, and the time of searches as a worker
makes them; the same through the service, of which that Milvus is a part; how many of 100 named rows
a search finds; what a write waits for; and how far FLOAT16 agrees with FLOAT32, and its time on
Milvus Lite.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymilvus import MilvusClient
from support.servers import running_milvus

from benchmarks.photos import Photos
from benchmarks.service import Service, connect, post_search, serve
from benchmarks.setup import FULL, Setup, percentile, time_s
from twinlens.models.card import Card
from twinlens.models.pictures import open_picture
from twinlens.models.registry import Registry, ensure_models
from twinlens.models.session import Embedder
from twinlens.shared.indexes import BUILD, search_params
from twinlens.shared.libraries import Index, Library, new_library
from twinlens.shared.messages import CatalogEntry, Image, now
from twinlens.shared.redis.catalog import Catalog
from twinlens.shared.redis.client import Redis
from twinlens.shared.redis.client import connect as connect_redis
from twinlens.shared.settings import Settings
from twinlens.workers.milvus.collection import VECTOR_FIELD, Collection, collection_of
from twinlens.workers.milvus.vectors import Vectors

LIBRARY, MODEL = "recall", "efficientnet-lite0@1"
K = 10
EFS = (10, 16, 32, 64, 128, 256, 512)
N_PHOTOS = 512
BATCH, CHUNK = 500, 64  # rows of a write: to fill a collection, and as a job does
N_CLIENTS = 4
N_NAMED = 100
N_FLOAT16 = 5_000
# Building took 40 s for 20,000 rows on two cores that others used as well.
BUILD_S = 1500.0

Rows = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recall", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 vectors, not 100,000")
    parser.add_argument("--index", default="HNSW", choices=sorted(BUILD), help="HNSW by default")
    args = parser.parse_args()
    n_rows, n_queries = (20_000, 100) if args.quick else (100_000, 500)
    with tempfile.TemporaryDirectory(prefix="twinlens-bench-") as folder:
        work = Path(folder)
        ensure_models(work / "models", [MODEL])
        model = Registry(work / "models").open(MODEL)
        made = _vectors(_embed_photos(model), n_rows + n_queries)
        rows, queries = made[:n_rows], made[n_rows:]
        truth = _nearest_of_all(rows, queries)
        print(f"{n_rows} vectors of {rows.shape[1]} numbers, {n_queries} queries, k = {K}")
        halves = _nearest_of_all(
            *(some.astype(np.float16).astype(np.float32) for some in (rows, queries))
        )
        kept = statistics.mean(len(a & b) / K for a, b in zip(truth, halves, strict=True))
        print(f"of FLOAT16 vectors, {kept:.4f} of the {K} nearest are those of FLOAT32")
        with running_milvus(work) as uri:
            _show_float16(uri, model.card, rows[:N_FLOAT16], queries)
        setup = Setup(work, work / "models", FULL)
        with serve(setup, "--milvus", "standalone", "--workers", "1") as service:
            uri = service.address("milvus_uri")
            _show_writes(uri, model.card, rows)
            collection = _collection(model.card, Index(type=args.index))
            _show_recall(uri, collection, rows, queries, truth)
            _show_service(service, uri, collection, rows, n_queries)


def _embed_photos(model: Embedder) -> Rows:
    photos, spec = Photos(N_PHOTOS), model.card.input
    opened = (open_picture(photos.take(), wanted_px=spec.wanted_px) for _ in range(N_PHOTOS))
    pixels = np.stack([picture.pixels_for(spec) for picture in opened])
    return np.asarray(model.embed_batch(pixels), np.float32)


def _vectors(photos: Rows, n_vectors: int) -> Rows:
    rng = np.random.default_rng(0)
    first, second, third, fourth = rng.integers(0, len(photos), (4, n_vectors))
    towards, apart = rng.uniform(0.0, 0.4, (2, n_vectors, 1)).astype(np.float32)
    made = photos[first] * (1 - towards) + photos[second] * towards
    made += apart * (photos[third] - photos[fourth])
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32)


def _nearest_of_all(rows: Rows, queries: Rows) -> list[set[str]]:
    """Returns the K nearest ids of each query. All vectors have length 1, so any metric will do."""
    places = np.argpartition(-(queries @ rows.T), K, axis=1)[:, :K]
    return [{_id_of(place) for place in some} for some in places.tolist()]


def _show_writes(uri: str, card: Card, rows: Rows) -> None:
    vectors, client = Vectors(Settings(milvus_uri=uri)), MilvusClient(uri=uri, timeout=10)
    collection = _collection(card, Index())
    _write(vectors, collection, rows[:CHUNK])
    written = [
        {"id": _id_of(i), VECTOR_FIELD: row, "metadata": {}} for i, row in enumerate(rows[:CHUNK])
    ]
    bare_s = [time_s(lambda: client.upsert(collection.name, written)) for _ in range(30)]
    seen_s = [time_s(lambda: _write(vectors, collection, rows[:CHUNK])) for _ in range(30)]
    print(f"{CHUNK} rows upserted in {_times(bare_s)}, seen by all in {_times(seen_s)}")
    vectors.drop(collection.name)


def _show_recall(
    uri: str, collection: Collection, rows: Rows, queries: Rows, truth: Sequence[set[str]]
) -> None:
    vectors, kind = Vectors(Settings(milvus_uri=uri)), collection.index.type
    took_s = time_s(lambda: _write(vectors, collection, rows))
    print(f"written in {took_s:.0f} s, searched at once:")
    _show_searches("as written", partial(_search, vectors, collection), queries, truth)
    _show_named(uri, collection, rows, queries)
    took_s = time_s(lambda: _build(uri, collection.name, len(rows)))
    print(f"flushed, and the index built, {took_s:.0f} s later:")
    _show_named(uri, collection, rows, queries)
    for params in (
        [{"ef": ef} for ef in EFS] if kind == "HNSW" else [search_params(Index(type=kind), K)]
    ):
        asked = replace(collection, index=Index(type=kind, params=params))
        title = " ".join(f"{name} {value}" for name, value in params.items())
        _show_searches(title, partial(_search, vectors, asked), queries, truth)


def _search(vectors: Vectors, collection: Collection, query: Rows) -> Iterable[str]:
    [nearest] = vectors.nearest(collection, query[np.newaxis], K)
    return nearest


def _show_service(
    service: Service, uri: str, collection: Collection, rows: Rows, n_queries: int
) -> None:
    """Searches with stored images, by HTTP and in Milvus."""
    with connect_redis(service.address("redis_url")) as redis:
        _catalogue(redis, collection, len(rows))
    vectors = Vectors(Settings(milvus_uri=uri))
    places = np.random.default_rng(2).choice(len(rows), n_queries, replace=False)
    truth = _nearest_of_all(rows, rows[places])
    client = threading.local()  # each keeps a connection

    def search(rerank: str, place: int) -> Iterable[str]:
        if not hasattr(client, "connection"):
            client.connection = connect(service.client)
        query = {"library": LIBRARY, "image_id": _id_of(place), "k": K, "include_query": True}
        body = json.dumps(query | {"rerank": rerank}).encode()
        job = json.loads(post_search(client.connection, body, "application/json"))
        return [hit["image"]["id"] for hit in job["result"]["hits"]]

    print("with stored images:")
    _show_searches("Milvus", partial(_search, vectors, collection), rows[places], truth)
    for rerank in ("none", "neighbours"):
        _show_searches(f"service, {rerank}", partial(search, rerank), places.tolist(), truth)


def _catalogue(redis: Redis, collection: Collection, n_rows: int) -> None:
    """Makes the library whose vectors these are."""
    catalog, ref = Catalog(redis), collection.card.ref
    library = Library(
        name=LIBRARY, models=[ref], index=collection.index, collections={ref: collection.name}
    )
    assert catalog.ensure_library(library)
    for start in range(0, n_rows, BATCH):
        entries = []
        for place in range(start, min(start + BATCH, n_rows)):
            image = Image(
                id=_id_of(place),
                name=f"{place}.jpg",
                library=LIBRARY,
                width=512,
                height=512,
                format="image/jpeg",
                bytes=40_000,
                models=[ref],
                added_at=now(),
            )
            entries.append(CatalogEntry(image=image, added_by="none"))
        assert catalog.put(LIBRARY, entries) == []


def _show_named(uri: str, collection: Collection, rows: Rows, queries: Rows) -> None:
    """Shows how many of some named rows the server finds, and how long we take to measure all."""
    client, vectors = MilvusClient(uri=uri, timeout=10), Vectors(Settings(milvus_uri=uri))
    rng = np.random.default_rng(1)
    n_found, times_s = 0, []
    for query in queries[:20]:
        ids = [_id_of(place) for place in rng.choice(len(rows), N_NAMED, replace=False).tolist()]
        [hits] = client.search(
            collection.name,
            [query],
            filter=f"id in {json.dumps(ids)}",
            limit=N_NAMED,
            search_params={"params": search_params(collection.index, N_NAMED)},
        )
        n_found += len(hits)
        times_s.append(time_s(partial(vectors.distances_to, collection, query[None], ids)))
    share = n_found / (20 * N_NAMED)
    print(f"the server finds {share:.1%} of {N_NAMED} named rows; read, measured {_times(times_s)}")


def _show_float16(uri: str, card: Card, rows: Rows, queries: Rows) -> None:
    vectors, truth = Vectors(Settings(milvus_uri=uri)), _nearest_of_all(rows, queries)
    print(f"Milvus Lite, {len(rows)} vectors:")
    for kind in ("FLOAT32", "FLOAT16"):
        collection = _collection(card, Index(type="FLAT", vector=kind))
        _write(vectors, collection, rows)
        _show_searches(f"FLAT, {kind}", partial(_search, vectors, collection), queries, truth)
        vectors.drop(collection.name)


def _show_searches(
    title: str,
    search: Callable[[Any], Iterable[str]],
    queries: Sequence[Any] | Rows,
    truth: Sequence[set[str]],
) -> None:
    def measure(place: int) -> tuple[float, float]:
        started = time.perf_counter()
        ids = set(search(queries[place]))
        took_s = time.perf_counter() - started
        return took_s, len(ids & truth[place]) / K

    places = range(len(queries))
    for place in places[:10]:
        measure(place)
    times_s, recalls = zip(*map(measure, places), strict=True)
    with ThreadPoolExecutor(N_CLIENTS) as clients:
        started = time.perf_counter()
        busy_s, _ = zip(*clients.map(measure, places), strict=True)
        all_s = time.perf_counter() - started
    print(
        f"{title:20} recall@{K} {statistics.mean(recalls):.4f}   {_times(times_s)}"
        f"   {N_CLIENTS} clients: {len(queries) / all_s:4.0f}/s {_times(busy_s)}",
        flush=True,
    )


def _build(uri: str, name: str, n_rows: int) -> None:
    """Seals all rows, and waits until they are in the index."""
    client = MilvusClient(uri=uri, timeout=120)
    client.flush(name)
    end = time.monotonic() + BUILD_S
    # Built is not yet searched.
    while sum(one.num_rows for one in client.list_loaded_segments(name) if one.index_name) < n_rows:
        assert time.monotonic() < end, "the index was not built in time"
        time.sleep(1)


def _write(vectors: Vectors, collection: Collection, rows: Rows) -> None:
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        ids = [_id_of(start + place) for place in range(len(some))]
        vectors.upsert(collection, ids, some, [{}] * len(some))


def _collection(card: Card, index: Index) -> Collection:
    return collection_of(new_library(LIBRARY, [card.ref], index=index), card)


def _id_of(place: int) -> str:
    return f"{place:064x}"


def _times(times_s: Sequence[float]) -> str:
    times_ms = [1000 * one for one in times_s]
    return f"p50 {statistics.median(times_ms):.1f} p99 {percentile(times_ms, 99):.1f} ms"


if __name__ == "__main__":
    main()
