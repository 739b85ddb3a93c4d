"""A chunk of pictures on its way: manifest → bytes → pixels → embeddings → Milvus → catalogue."""

from __future__ import annotations

import logging
import time
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from twinlens.shared.blobs import image_key, manifest_key
from twinlens.shared.errors import ContentMissing, Crashed, Internal, TwinlensError
from twinlens.shared.messages import (
    CatalogEntry,
    Image,
    Item,
    ManifestHead,
    ManifestItem,
    now,
)
from twinlens.workers.listed import store_listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from redis.client import Pipeline

    from twinlens.models.session import Embedder, Embeddings, Pixels
    from twinlens.shared.errors import Problem
    from twinlens.workers.runtime import Runtime

log = logging.getLogger(__name__)

# A model at a time over some pictures keeps its weights in the processor's cache: a fifth faster
# than picture by picture. With fewer, decoding and embedding overlap from sooner on.
GROUP_ITEMS = 16
# A picture that ends its worker process is given up after this many tries.
MAX_TRIES = 3


@dataclass
class Pending:
    """A picture of the chunk that is to be embedded."""

    item: ManifestItem
    image_id: str
    tag: str  # job:chunk:index, so that a repeated chunk knows its own work
    image: Image | None = None
    pixels: list[Pixels] = field(default_factory=list)  # one a model
    error: Problem | None = None


def embed_chunk(runtime: Runtime, job_id: str, chunk: int) -> list[Item]:
    """Embeds the pictures of one chunk, and counts it. Repeating it gives the same outcomes.

    Returns:
        The outcome of each line of the chunk's manifest, in its order.

    Raises:
        Unavailable: Milvus is away; nothing is lost, the chunk is to be run again.
    """
    head, entries = read_manifest(runtime, job_id, chunk)
    store_listed(runtime, head.library, entries)
    models = runtime.models_of(runtime.catalog.library(head.library))
    versions = [model.card.ref for model in models]
    known = runtime.catalog.find(head.library, [e.image_id for e in entries if e.image_id])

    outcomes: dict[int, Item] = {}
    pending: dict[str, Pending] = {}
    places: dict[int, str] = {}
    for index, entry in enumerate(entries):
        tag = f"{job_id}:{chunk}:{index}"
        if entry.error is not None or entry.image_id is None:
            outcomes[index] = _failed(entry, entry.error)
        elif _has_all(known.get(entry.image_id), versions):
            added_here = known[entry.image_id].added_by == tag
            outcomes[index] = Item(
                name=entry.name,
                image_id=entry.image_id,
                outcome="succeeded" if added_here else "skipped",
            )
        else:
            places[index] = entry.image_id
            pending.setdefault(entry.image_id, Pending(entry, entry.image_id, tag))

    began = time.monotonic()
    _embed_pending(runtime, head, chunk, models, list(pending.values()))
    took_s = time.monotonic() - began
    seen: set[str] = set()
    for index, image_id in places.items():
        outcomes[index] = _outcome(entries[index], pending[image_id], is_first=image_id not in seen)
        seen.add(image_id)
    items = [outcomes[index] for index in range(len(entries))]
    with runtime.redis.pipeline() as pipeline:
        _add_to_catalog(runtime, pipeline, pending.values())
        if n_embedded := sum(one.image is not None for one in pending.values()):
            runtime.catalog.note_cost(pipeline, head.library, took_s / n_embedded)
        runtime.jobs.count_chunk(job_id, chunk, items, pipeline)
    return items


def fail_chunk(runtime: Runtime, job_id: str, chunk: int, problem: Problem) -> None:
    """Counts each picture of a chunk that could not be run as failed."""
    _, entries = read_manifest(runtime, job_id, chunk)
    items = [_failed(entry, entry.error or problem) for entry in entries]
    with runtime.redis.pipeline() as pipeline:
        runtime.jobs.count_chunk(job_id, chunk, items, pipeline)


def read_manifest(
    runtime: Runtime, job_id: str, chunk: int
) -> tuple[ManifestHead, list[ManifestItem]]:
    """Reads what was accepted for a chunk: its head, then one picture a line."""
    head, *lines = runtime.blobs.get(manifest_key(job_id, chunk)).splitlines()
    return (
        ManifestHead.model_validate_json(head),
        [ManifestItem.model_validate_json(line) for line in lines],
    )


def _embed_pending(
    runtime: Runtime,
    head: ManifestHead,
    chunk: int,
    models: Sequence[Embedder],
    pending: Sequence[Pending],
) -> None:
    """Embeds all at once; one by one where the chunk took its worker process with it before."""
    with _counted_try(runtime, head.job_id, str(chunk)) as n_tries:
        if n_tries == 1:
            _embed_together(runtime, head.library, models, pending)
            return
        for one in pending:
            # The try of the whole chunk was the first.
            with _counted_try(runtime, head.job_id, one.tag) as n_alone:
                if n_alone >= MAX_TRIES:
                    one.error = Crashed(
                        f"The picture ended its worker process {MAX_TRIES} times and was given up."
                    ).to_problem()
                else:
                    _embed_together(runtime, head.library, models, [one])
                    # Whatever ends this process next, the next try goes on from here.
                    with runtime.redis.pipeline() as pipeline:
                        _add_to_catalog(runtime, pipeline, [one])
                        pipeline.execute()


@contextmanager
def _counted_try(runtime: Runtime, job_id: str, part: str) -> Iterator[int]:
    """Yields how often a part was begun, this time with it, and not ended since."""
    n_tries = runtime.jobs.begin_try(job_id, part)
    try:
        yield n_tries
    except Exception:
        runtime.jobs.end_try(job_id, part)
        raise
    # Not in a `finally`: a time limit ends the process by SystemExit, and that was a try.
    runtime.jobs.end_try(job_id, part)


def _embed_together(
    runtime: Runtime, library: str, models: Sequence[Embedder], pending: Sequence[Pending]
) -> None:
    """Embeds a group of pictures under each model while the next one is read and decoded."""
    decoding = [runtime.decoders.submit(_decode, runtime, library, models, p) for p in pending]
    good: list[Pending] = []
    embeddings: list[list[Embeddings]] = [[] for _ in models]
    for start in range(0, len(pending), GROUP_ITEMS):
        group = slice(start, start + GROUP_ITEMS)
        wait(decoding[group])
        decoded = [one for one in pending[group] if one.error is None]
        if not decoded:
            continue
        good += decoded
        for place, model in enumerate(models):
            pixels = np.stack([one.pixels[place] for one in decoded])
            embeddings[place].append(model.embed_batch(pixels))
    if good:
        _write(runtime, library, models, good, embeddings)


def _write(
    runtime: Runtime,
    library: str,
    models: Sequence[Embedder],
    good: Sequence[Pending],
    embeddings: Sequence[Sequence[Embeddings]],
) -> None:
    """Writes to Milvus, once a model and all models at once."""
    ids = [one.image_id for one in good]
    writing = [
        runtime.writers.submit(runtime.vectors.upsert, library, model.card, ids, chain(*rows))
        for model, rows in zip(models, embeddings, strict=True)
    ]
    for done in writing:
        done.result()
    runtime.n_pictures += len(good)


def _add_to_catalog(runtime: Runtime, pipeline: Pipeline, pending: Iterable[Pending]) -> None:
    """Queues the writing of the images that were embedded. Repeating it changes nothing."""
    for one in pending:
        if one.image is not None:
            path = image_key(one.image.library, one.image_id)
            entry = CatalogEntry(image=one.image, path=path, added_by=one.tag)
            runtime.catalog.add(pipeline, entry)


def _decode(runtime: Runtime, library: str, models: Sequence[Embedder], one: Pending) -> None:
    """Decodes a picture once, for every model. What goes wrong becomes the picture's outcome."""
    try:
        content = runtime.blobs.get(image_key(library, one.image_id))
        picture, one.pixels = runtime.decode(content, models)
    except FileNotFoundError:
        one.error = ContentMissing(
            "The picture was removed before it was embedded; post it again."
        ).to_problem()
    except TwinlensError as error:
        one.error = error.to_problem()
    except Exception:
        log.exception("decoding picture %s failed unexpectedly", one.image_id)
        one.error = Internal("The picture could not be decoded; the log says why.").to_problem()
    else:
        one.image = Image(
            id=one.image_id,
            name=one.item.name,
            library=library,
            width=picture.width,
            height=picture.height,
            format=f"image/{picture.format.lower()}",
            bytes=len(content),
            metadata=one.item.metadata,
            models=[model.card.ref for model in models],
            added_at=now(),
        )


def _has_all(entry: CatalogEntry | None, versions: list[str]) -> bool:
    return entry is not None and set(versions) <= set(entry.image.models)


def _outcome(entry: ManifestItem, result: Pending, *, is_first: bool) -> Item:
    if result.error is not None:
        return _failed(entry, result.error)
    outcome = "succeeded" if is_first else "skipped"
    return Item(name=entry.name, image_id=entry.image_id, outcome=outcome)


def _failed(entry: ManifestItem, error: Problem | None) -> Item:
    return Item(name=entry.name, image_id=entry.image_id, outcome="failed", error=error)
