"""A search: the query under every model, each model's nearest, fused into one ranking."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from twinlens.models.fusion import agreement, fuse, shares_of
from twinlens.models.rerank import N_RERANKED
from twinlens.shared.errors import BadRequest, ImageNotFound
from twinlens.shared.messages import (
    Agreement,
    Hit,
    ModelHit,
    RankedImage,
    SearchResult,
    SearchTiming,
)
from twinlens.shared.queue import query_key
from twinlens.workers.neighbours import fetch_all, order_by_neighbours

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twinlens.models.fusion import FusedEntry
    from twinlens.models.session import Embedder
    from twinlens.shared.messages import CatalogEntry, SearchQuery
    from twinlens.workers.runtime import Runtime

# Hits past k that are at hand when some of the best are being deleted just now.
SPARE_HITS = 16

Distances = dict[str, dict[str, float]]  # model → image id → distance, nearest first

# onnxruntime and gRPC both release the interpreter: the models work side by side.
_pool = ThreadPoolExecutor(8, thread_name_prefix="search")


def search(runtime: Runtime, job_id: str, query: SearchQuery, submitted_at: float) -> SearchResult:
    """Asks every model for the pictures nearest to the query, and fuses what they find.

    Args:
        runtime: What the process holds.
        job_id: Names the query picture in Redis, where the query is a picture.
        query: What to look for.
        submitted_at: Unix time in seconds at which the query was accepted.

    Raises:
        PictureError: The query picture is refused.
        ImageNotFound: The query names an image that the library has not.
        Unavailable: Milvus does not answer.
    """
    watch = _Stopwatch(submitted_at)
    library = runtime.catalog.library(query.library)
    models = runtime.models_of(library, query.models)
    if query.text is not None:
        models = [model for model in models if model.card.text is not None]
    by_name = {model.card.name: model for model in models}
    if query.text is not None:
        embeddings = _embed_text(runtime, query.text, models)
        watch.lap("embed")
    elif query.image_id is None:
        embeddings = _embed_query(runtime, job_id, models, watch)
    else:
        embeddings = _stored_query(runtime, query, query.image_id, models)
        watch.lap("embed")

    listed, exact = _find(runtime, query, by_name, embeddings)
    watch.lap("search")
    cards = {name: model.card for name, model in by_name.items()}
    weights = {name: card.weight for name, card in cards.items()} | library.weights
    fused = fuse(exact, cards, weights, limit=max(query.k + SPARE_HITS, N_RERANKED))
    # Words are near no picture in the way that pictures are near each other.
    if query.rerank == "neighbours" and query.text is None:
        shares = shares_of(weights, cards)
        ids = [one.image_id for one in fused[:N_RERANKED]]
        watch.lap("fuse")
        counted = [cards[name] for name in shares]
        stored = fetch_all(runtime.vectors, _pool, query.library, counted, ids)
        watch.lap("search")
        fused = order_by_neighbours(fused, stored, embeddings, cards, shares)
        watch.lap("rerank")
    result = _result(runtime, query, listed, fused)
    watch.lap("fuse")
    result.timing_ms = watch.timing()
    return result


def _stored_query(
    runtime: Runtime, query: SearchQuery, image_id: str, models: Sequence[Embedder]
) -> dict[str, Any]:
    runtime.catalog.get(query.library, image_id)
    cards = [model.card for model in models]
    stored = fetch_all(runtime.vectors, _pool, query.library, cards, [image_id])
    for name, found in stored.items():
        if image_id not in found:
            raise ImageNotFound(f"Model {name!r} has no embedding of image {image_id!r}.")
    return {name: found[image_id] for name, found in stored.items()}


def _embed_text(runtime: Runtime, text: str, models: Sequence[Embedder]) -> dict[str, Any]:
    if not models:
        raise BadRequest("No model that was asked has a text encoder.")
    return {model.card.name: runtime.text_encoder(model).encode(text) for model in models}


def _embed_query(
    runtime: Runtime, job_id: str, models: Sequence[Embedder], watch: _Stopwatch
) -> dict[str, Any]:
    content: Any = runtime.pictures.get(query_key(job_id))
    if content is None:
        raise BadRequest("The query picture waited too long and is gone; search again.")
    _, pixels = runtime.decode(content, models)
    watch.lap("decode")

    def embed(model: Embedder, one: Any) -> Any:
        return model.embed_batch(one[None])[0]

    embeddings = _pool.map(embed, models, pixels)
    found = {model.card.name: row for model, row in zip(models, embeddings, strict=True)}
    watch.lap("embed")
    return found


def _find(
    runtime: Runtime,
    query: SearchQuery,
    models: Mapping[str, Embedder],
    embeddings: Mapping[str, Any],
) -> tuple[Distances, Distances]:
    """Returns each model's own list, and every model's exact distance to all that any listed.

    So no result depends on which model happened to list a candidate.
    """
    # One more, since the query itself may be among them.
    limit = max(query.k + 1, runtime.settings.search_candidates)

    def ask(name: str) -> dict[str, float]:
        card = models[name].card
        found = runtime.vectors.nearest(query.library, card, embeddings[name], limit)
        found.pop(query.image_id or "", None)
        return found

    listed = dict(zip(models, _pool.map(ask, models), strict=True))
    union = {image_id for found in listed.values() for image_id in found}

    def complete(name: str) -> dict[str, float]:
        missing = sorted(union - listed[name].keys())
        if not missing:
            return listed[name]
        card, row = models[name].card, embeddings[name]
        more = runtime.vectors.nearest(query.library, card, row, len(missing), among=missing)
        return listed[name] | more

    return listed, dict(zip(models, _pool.map(complete, models), strict=True))


def _result(
    runtime: Runtime, query: SearchQuery, listed: Distances, fused: Sequence[FusedEntry]
) -> SearchResult:
    shown, images = _shown(runtime, query, fused)
    tops = {name: list(found)[: query.k] for name, found in listed.items()}
    agreed = agreement(tops, query.k)
    return SearchResult(
        hits=[
            Hit(
                rank=rank,
                score=one.score,
                image=images[one.image_id].image,
                models={
                    name: ModelHit(rank=view.rank, distance=view.distance, score=view.score)
                    for name, view in one.models.items()
                    if view.rank is not None and view.distance is not None
                },
            )
            for rank, one in enumerate(shown, start=1)
        ],
        by_model={
            name: [
                RankedImage(rank=rank, image_id=image_id, distance=listed[name][image_id])
                for rank, image_id in enumerate(ids, start=1)
            ]
            for name, ids in tops.items()
        },
        agreement=Agreement(
            overlap_at_k=agreed and agreed.overlap_at_k,
            rank_correlation=agreed and agreed.rank_correlation,
        ),
        timing_ms=SearchTiming(queued=0, decode=0, embed=0, search=0, fuse=0, rerank=0, total=0),
    )


def _shown(
    runtime: Runtime, query: SearchQuery, fused: Sequence[FusedEntry]
) -> tuple[list[FusedEntry], dict[str, CatalogEntry]]:
    """Returns the first k that are catalogued: some of the best may be being deleted just now."""
    shown: list[FusedEntry] = []
    images: dict[str, CatalogEntry] = {}
    place = 0
    while len(shown) < query.k and place < len(fused):
        some = fused[place : place + query.k]
        images |= runtime.catalog.find(query.library, [one.image_id for one in some])
        shown += [one for one in some if one.image_id in images]
        place += query.k
    return shown[: query.k], images


class _Stopwatch:
    """Adds up where the time of one search goes."""

    def __init__(self, submitted_at: float) -> None:
        self._submitted_at = submitted_at
        self._last = time.perf_counter()
        self._laps_ms = {"queued": max(0.0, time.time() - submitted_at) * 1000}

    def lap(self, stage: str) -> None:
        moment = time.perf_counter()
        # A stage may come twice.
        self._laps_ms[stage] = self._laps_ms.get(stage, 0.0) + (moment - self._last) * 1000
        self._last = moment

    def timing(self) -> SearchTiming:
        stages = {"decode": 0.0, "embed": 0.0, "rerank": 0.0} | self._laps_ms
        rounded = {stage: round(ms, 2) for stage, ms in stages.items()}
        return SearchTiming(**rounded, total=round(sum(self._laps_ms.values()), 2))
