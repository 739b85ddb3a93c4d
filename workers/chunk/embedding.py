"""A chunk of pictures on its way: manifest → bytes → pixels → embeddings → Milvus → catalogue."""

from __future__ import annotations

import logging
import time
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np
from redis import WatchError

from twinlens.shared.blobs import image_key
from twinlens.shared.errors import ContentMissing, Crashed, Internal, TwinlensError
from twinlens.shared.manifests import read_manifest
from twinlens.shared.messages import CatalogEntry, Image, Item, now
from twinlens.workers.chunk.listed import store_listed
from twinlens.workers.library.reindex import switch_if_built

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from redis.client import Pipeline

    from twinlens.models.session import Embedder, Embeddings, Pixels
    from twinlens.shared.errors import Problem
    from twinlens.shared.libraries import Library
    from twinlens.shared.messages import ManifestHead, ManifestItem
    from twinlens.workers.process.runtime import Runtime, Target

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
    library: str
    tag: str  # job:chunk:index, so that a repeated chunk knows its own work
    known: CatalogEntry | None  # as catalogued by then, some of its embeddings missing
    collections: set[str]  # those that have its embeddings
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
    head, entries = read_manifest(runtime.blobs, job_id, chunk)
    store_listed(runtime, head.library, entries)
    library = runtime.catalog.library(head.library)
    wanted = library.all_collections
    known = runtime.catalog.find(head.library, [e.image_id for e in entries if e.image_id])

    outcomes: dict[int, Item] = {}
    pending: dict[str, Pending] = {}
    places: dict[int, str] = {}
    for index, entry in enumerate(entries):
        tag = f"{job_id}:{chunk}:{index}"
        there = known.get(entry.image_id or "")
        if entry.error is not None or entry.image_id is None:
            outcomes[index] = _failed(entry, entry.error)
        elif there is None and head.kind == "reindex":
            # It was removed since the job was planned.
            outcomes[index] = _done(entry, "skipped")
        elif there is not None and wanted <= there.collections:
            outcomes[index] = _done(entry, "succeeded" if there.added_by == tag else "skipped")
        else:
            places[index] = entry.image_id
            has = set(there.collections) if there else set()
            pending.setdefault(
                entry.image_id, Pending(entry, entry.image_id, head.library, tag, there, has)
            )

    began = time.monotonic()
    _embed_pending(runtime, head, chunk, library, list(pending.values()))
    took_s = time.monotonic() - began
    seen: set[str] = set()
    for index, image_id in places.items():
        outcomes[index] = _outcome(entries[index], pending[image_id], is_first=image_id not in seen)
        seen.add(image_id)
    items = [outcomes[index] for index in range(len(entries))]
    while not _count(runtime, head, items, list(pending.values()), took_s):
        # The library has got another edition meanwhile, which these pictures must not lack.
        library = runtime.catalog.library(head.library)
        _embed_together(runtime, library, [one for one in pending.values() if not one.error])
    _remove_unwanted(runtime, library, pending.values())
    if head.kind == "reindex":
        switch_if_built(runtime, job_id)
    return items


def _count(
    runtime: Runtime,
    head: ManifestHead,
    items: Sequence[Item],
    pending: Sequence[Pending],
    took_s: float,
) -> bool:
    """Catalogues what was embedded, and counts the chunk, in one transaction.

    Returns:
        False, with nothing done, if one of them is not embedded for an edition of the library.
    """
    # One that was embedded may have been removed before it was for a new edition.
    done = [one for one in pending if one.image is not None and one.error is None]
    with runtime.redis.pipeline() as pipeline:
        library = runtime.catalog.watch_library(pipeline, head.library)
        wanted = library.all_collections
        if not all(wanted <= one.collections for one in done):
            return False
        pipeline.multi()
        _add_to_catalog(runtime, pipeline, library, done)
        if done:
            runtime.catalog.note_cost(pipeline, head.library, took_s / len(done))
        try:
            runtime.jobs.count_chunk(head.job_id, head.chunk, items, pipeline)
        except WatchError:
            return False
    return True


def fail_chunk(runtime: Runtime, job_id: str, chunk: int, problem: Problem) -> None:
    """Counts each picture of a chunk that could not be run as failed."""
    _, entries = read_manifest(runtime.blobs, job_id, chunk)
    items = [_failed(entry, entry.error or problem) for entry in entries]
    with runtime.redis.pipeline() as pipeline:
        runtime.jobs.count_chunk(job_id, chunk, items, pipeline)


def _targets_of(runtime: Runtime, library: Library) -> dict[str, Target]:
    """Returns what a picture of a library is embedded for, by collection."""
    return {
        target.collection.name: target
        for edition in library.editions
        for target in runtime.targets_of(edition)
    }


def _embed_pending(
    runtime: Runtime,
    head: ManifestHead,
    chunk: int,
    library: Library,
    pending: Sequence[Pending],
) -> None:
    """Embeds all at once; one by one where the chunk took its worker process with it before."""
    with _counted_try(runtime, head.job_id, str(chunk)) as n_tries:
        if n_tries == 1:
            _embed_together(runtime, library, pending)
            return
        for one in pending:
            # The try of the whole chunk was the first.
            with _counted_try(runtime, head.job_id, one.tag) as n_alone:
                if n_alone >= MAX_TRIES:
                    one.error = Crashed(
                        f"The picture ended its worker process {MAX_TRIES} times and was given up."
                    ).to_problem()
                else:
                    _embed_together(runtime, library, [one])
                    # Whatever ends this process next, the next try goes on from here.
                    with runtime.redis.pipeline() as pipeline:
                        _add_to_catalog(runtime, pipeline, library, [one])
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


def _embed_together(runtime: Runtime, library: Library, pending: Sequence[Pending]) -> None:
    """Embeds pictures for the collections that lack them."""
    targets = _targets_of(runtime, library)
    by_missing: dict[frozenset[str], list[Pending]] = {}
    for one in pending:
        by_missing.setdefault(frozenset(targets.keys() - one.collections), []).append(one)
    for missing, group in by_missing.items():
        _embed_for(runtime, [targets[name] for name in sorted(missing)], group)


def _embed_for(runtime: Runtime, targets: Sequence[Target], pending: Sequence[Pending]) -> None:
    """Embeds a group of pictures under each model while the next one is read and decoded."""
    models = list({target.model.card.ref: target.model for target in targets}.values())
    decoding = [runtime.decoders.submit(_decode, runtime, models, one) for one in pending]
    good: list[Pending] = []
    embeddings: dict[str, list[Embeddings]] = {model.card.ref: [] for model in models}
    for start in range(0, len(pending), GROUP_ITEMS):
        group = slice(start, start + GROUP_ITEMS)
        wait(decoding[group])
        decoded = [one for one in pending[group] if one.error is None]
        if not decoded:
            continue
        good += decoded
        for place, model in enumerate(models):
            pixels = np.stack([one.pixels[place] for one in decoded])
            embeddings[model.card.ref].append(model.embed_batch(pixels))
    if good:
        _write(runtime, targets, good, embeddings)


def _write(
    runtime: Runtime,
    targets: Sequence[Target],
    good: Sequence[Pending],
    embeddings: Mapping[str, Sequence[Embeddings]],
) -> None:
    """Writes to Milvus, once a collection and all collections at once."""
    ids = [one.image_id for one in good]
    metadata = [one.image.metadata for one in good if one.image is not None]
    writing = [
        runtime.writers.submit(
            runtime.vectors.upsert,
            target.collection,
            ids,
            chain(*embeddings[target.model.card.ref]),
            metadata,
        )
        for target in targets
    ]
    for done in writing:
        done.result()
    for one in good:
        one.collections |= {target.collection.name for target in targets}
    runtime.n_pictures += len(good)


def _add_to_catalog(
    runtime: Runtime, pipeline: Pipeline, library: Library, pending: Iterable[Pending]
) -> None:
    """Queues the writing of the images that were embedded. Repeating it changes nothing."""
    for one in pending:
        if one.image is None:
            continue
        entry = one.known or CatalogEntry(
            image=one.image, path=image_key(library.name, one.image_id), added_by=one.tag
        )
        entry.collections = one.collections
        entry.image.models = [
            ref
            for ref in dict.fromkeys(chain(*(edition.models for edition in library.editions)))
            if any(e.collections.get(ref) in one.collections for e in library.editions)
        ]
        runtime.catalog.add(pipeline, entry, is_new=one.known is None)


def _remove_unwanted(runtime: Runtime, library: Library, pending: Iterable[Pending]) -> None:
    """Removes what was written of images that somebody removed meanwhile."""
    again = [one.image_id for one in pending if one.known is not None]
    gone = set(again) - runtime.catalog.find(library.name, again).keys()
    if gone:
        for target in _targets_of(runtime, library).values():
            runtime.vectors.delete(target.collection, sorted(gone))


def _decode(runtime: Runtime, models: Sequence[Embedder], one: Pending) -> None:
    """Decodes a picture once, for every model. What goes wrong becomes the picture's outcome."""
    try:
        content = runtime.blobs.get(image_key(one.library, one.image_id))
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
        one.image = (
            one.known.image
            if one.known
            else Image(
                id=one.image_id,
                name=one.item.name,
                library=one.library,
                width=picture.width,
                height=picture.height,
                format=f"image/{picture.format.lower()}",
                bytes=len(content),
                metadata=one.item.metadata,
                models=[],
                added_at=now(),
            )
        )


def _outcome(entry: ManifestItem, result: Pending, *, is_first: bool) -> Item:
    if result.error is not None:
        return _failed(entry, result.error)
    return _done(entry, "succeeded" if is_first else "skipped")


def _done(entry: ManifestItem, outcome: Literal["succeeded", "skipped"]) -> Item:
    return Item(name=entry.name, image_id=entry.image_id, outcome=outcome)


def _failed(entry: ManifestItem, error: Problem | None) -> Item:
    return Item(name=entry.name, image_id=entry.image_id, outcome="failed", error=error)
