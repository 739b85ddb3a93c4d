"""How long a library takes to get a tuned version: `python -m benchmarks.reindex [--n N]`.

A whole service gets a library of made vectors, and no pictures; then the library is given a version
of its model that is a linear map of the one it has. Printed is how long until it is searched.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.service import Service, serve
from benchmarks.setup import FULL, Setup
from twinlens.models.build.linear import LinearMap, add_linear_map
from twinlens.models.card import Original
from twinlens.models.registry import DEFAULT_MODELS, Registry, ensure_models
from twinlens.shared.filters.fields import fields_of
from twinlens.shared.messages import CatalogEntry, Image, now
from twinlens.shared.redis.catalog import Catalog
from twinlens.shared.redis.client import connect
from twinlens.shared.settings import Settings
from twinlens.workers.milvus.collection import collection_of
from twinlens.workers.milvus.vectors import Vectors

LIBRARY, MODEL, TUNED = "made", "efficientnet-lite0@1-int8", "1-int8-tuned"
PARTS = ("worker-bulk", "milvus", "valkey")
BATCH = 500


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reindex", description=__doc__)
    parser.add_argument("--n", type=int, default=100_000, metavar="N", help="vectors")
    parser.add_argument("--milvus", choices=["lite", "standalone"], default="standalone")
    parser.add_argument("--workers", default="2", metavar="N", help="bulk processes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="twinlens-bench-") as folder:
        work = Path(folder)
        ensure_models(work / "models", DEFAULT_MODELS)
        registry = Registry(work / "models")
        tuned = _add_tuned(registry)
        setup = Setup(work, work / "models", FULL)
        with serve(setup, "--milvus", args.milvus, "--workers", args.workers) as service:
            service.put_library(LIBRARY, [MODEL])
            _fill(service, registry, args.n)
            before = {part: service.cpu_s(part) for part in PARTS}
            started = time.perf_counter()
            body = {"models": [tuned]}
            answer = service.client.put(f"/v1/libraries/{LIBRARY}", json=body).raise_for_status()
            service.wait(answer.json(), args.n)
            took_s = time.perf_counter() - started
            cpu_s = {part: service.cpu_s(part) - before[part] for part in PARTS}
    print(f"{args.n} vectors, {args.workers} processes: {took_s:.1f} s, {args.n / took_s:.0f}/s")
    print("processor time:", ", ".join(f"{part} {each:.1f} s" for part, each in cpu_s.items()))


def _add_tuned(registry: Registry) -> str:
    card, model = registry.read(MODEL)
    shape = (card.dimension + 1, card.dimension)
    numbers = np.random.default_rng(0).standard_normal(shape, np.float32)
    made = card.model_copy(
        update={"version": TUNED, "linear_of": Original(ref=card.ref, sha256=card.sha256)}
    )
    linear = LinearMap(numbers[0] * np.float32(1e-3), numbers[1:])
    return registry.add(made, add_linear_map(model, linear)).ref


def _fill(service: Service, registry: Registry, n_images: int) -> None:
    """Writes vectors and records, as if pictures had been embedded."""
    vectors = Vectors(Settings(milvus_uri=service.address("milvus_uri")))
    with connect(service.address("redis_url")) as redis:
        catalog = Catalog(redis)
        library = catalog.library(LIBRARY)
        collection = collection_of(library, registry.card(MODEL))
        for start in range(0, n_images, BATCH):
            images = [_image(place) for place in range(start, min(start + BATCH, n_images))]
            rows = _rows(start, len(images), collection.card.dimension)
            ids = [image.id for image in images]
            vectors.upsert(collection, ids, rows, map(fields_of, images))
            entries = [
                CatalogEntry(image=image, added_by="none", collections={collection.name})
                for image in images
            ]
            assert catalog.put(library.id, entries) == []


def _rows(seed: int, n_rows: int, dimension: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((n_rows, dimension), np.float32)
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _image(place: int) -> Image:
    return Image(
        id=hashlib.sha256(str(place).encode()).hexdigest(),
        name=f"{place}.jpg",
        library=LIBRARY,
        width=512,
        height=512,
        format="image/jpeg",
        bytes=40_000,
        models=[MODEL],
        added_at=now(),
    )


if __name__ == "__main__":
    main()
