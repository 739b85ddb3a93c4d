"""A search: the query under every model, each model's nearest, fused into one ranking."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from twinlens.models.fusion import Fusion, agreement, fuse, shares_of
from twinlens.models.pictures import WHOLE, Region
from twinlens.models.rerank import N_RERANKED
from twinlens.models.variants import NEAR_WEIGHT
from twinlens.models.words import weigh_words
from twinlens.shared.filters.fields import fields_of
from twinlens.shared.filters.language import parse_field
from twinlens.shared.queries import (
    Agreement,
    Hit,
    ModelHit,
    RankedImage,
    SearchResult,
    SearchTiming,
)
from twinlens.shared.values import comparable
from twinlens.workers.library.calibrations import read_calibration
from twinlens.workers.query.copies import N_VERIFIED
from twinlens.workers.query.examples import NumSent, Query
from twinlens.workers.query.lists import DistancesByModel, Lists
from twinlens.workers.query.neighbours import order_by_neighbours

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from concurrent.futures import Executor

    from twinlens.models.calibration import Calibration
    from twinlens.models.card import Card
    from twinlens.models.fusion import FusedEntry
    from twinlens.shared.libraries import Library
    from twinlens.shared.messages import CatalogEntry
    from twinlens.shared.queries import CopyEvidence, SearchQuery
    from twinlens.shared.redis.catalog import Catalog, Searched
    from twinlens.workers.library.damages import Damages
    from twinlens.workers.milvus.vectors import Vectors
    from twinlens.workers.query.copies import Copies
    from twinlens.workers.query.examples import Examples, QueryEmbeddings
    from twinlens.workers.query.words import Words
    from twinlens.workers.targets import Target, Targets

# Spare hits past k, in case some of the best are just being deleted.
SPARE_HITS = 16
# By what factor a ranking goes deeper where it must.
DEEPER = 4
# Milvus gives 16,384 at most; some of them may be images to leave out.
MAX_DEPTH = 15_000

NOTHING_SENT = NumSent()


@dataclass(frozen=True, kw_only=True)
class Searches:
    """Asks every model for the pictures nearest to a query, and fuses what they find."""

    catalog: Catalog
    targets: Targets
    vectors: Vectors
    examples: Examples
    words: Words
    copies: Copies
    damages: Damages
    threads: Executor  # ask the models in parallel: gRPC releases the GIL
    n_candidates: int  # fewest to ask each model for

    def search(
        self,
        job_id: str,
        asked: SearchQuery,
        submitted_at: float,
        sent: NumSent = NOTHING_SENT,
    ) -> SearchResult:
        """Runs a search.

        Args:
            job_id: Identifies the pictures that were sent, in Redis.
            asked: What to look for.
            submitted_at: Unix time in seconds at which the query was accepted.
            sent: How many pictures were sent.

        Raises:
            PictureError: A query picture is refused.
            BadRequest: The query has words, and no model understands them.
            BadEmbedding: A model makes nothing of these words.
            ImageNotFound: A stored image, or a model's embedding of it, is missing.
            LibraryDamaged: A model's embeddings are lost.
            Unavailable: Milvus does not answer.
        """
        watch = _Stopwatch(submitted_at)
        searched = self.catalog.searched(asked.library)
        library = searched.library
        chosen = library.choose(asked.models)
        if searched.damage is not None:
            self.damages.check(library, chosen)
        pictures = self.examples.read_sent(job_id, sum(sent))
        parted = pictures[: sent.n_positive], pictures[sent.n_positive :]
        query = Query(asked, library.id, self.targets.of(library, chosen), *parted)
        if not query.has_examples:
            query = replace(query, targets=[*query.knowing.values()])
        rows = self.examples.embed(query, watch.lap)
        calibrations = calibrations_of(searched, query.targets)
        if asked.has_words:
            rows, calibrations = self.words.add(query, rows, calibrations)
            watch.lap("embed")
        scale = _Scale(_weigh(query, library), calibrations)
        ranking = _Ranking(self, query, rows, scale, watch)
        shown, images = ranking.page()
        result = _result(query, ranking, shown, images, searched)
        watch.lap("fuse")
        result.timing_ms = watch.timing()
        return result


def calibrations_of(searched: Searched, targets: Sequence[Target]) -> dict[str, Calibration]:
    """Returns the calibrations of a library's models, where they have been measured."""
    return {
        target.model.card.name: calibration
        for target in targets
        if (text := searched.calibrations.get(target.collection.name)) is not None
        and (calibration := read_calibration(text)) is not None
    }


def weights_of(
    library: Library, cards: Mapping[str, Card], mode: str, asked: Mapping[str, float]
) -> dict[str, float]:
    """Returns how much each model counts: as asked, else as the mode, library or card says."""
    weights = {name: card.weight for name, card in cards.items()} | library.weights
    if mode == "near":
        weights |= dict.fromkeys(cards, NEAR_WEIGHT)
    return {name: (weights | dict(asked))[name] for name in cards}


def _weigh(query: Query, library: Library) -> dict[str, float]:
    asked = query.asked
    cards = {name: one.card for name, one in query.collections.items()}
    weights = weights_of(library, cards, asked.mode, asked.weights)
    if asked.has_words and not asked.weights:
        return weigh_words(weights, query.knowing)
    return weights


class _Scale(NamedTuple):
    """What makes one score of several models' distances, by model."""

    weights: Mapping[str, float]
    calibrations: Mapping[str, Calibration]


class _Ranking:
    """All that a query finds, in order, worked out only as far as needed.

    It comes in blocks: the best of the 100 that each model lists, then those that are left of the
    400 that each lists, and so on. So a page is the same whatever was requested before it.
    """

    def __init__(
        self,
        ports: Searches,
        query: Query,
        rows: QueryEmbeddings,
        scale: _Scale,
        watch: _Stopwatch,
    ) -> None:
        self.listed: DistancesByModel = {}
        self.evidence: dict[str, CopyEvidence] = {}
        self._ports = ports
        self._asked_with = query
        self._query = query.asked
        self._library_id = query.library_id
        self._rows = rows
        self._lists = Lists(query, rows, ports.vectors, ports.threads)
        self._watch = watch
        self._collections = query.collections
        self._cards = {name: one.card for name, one in self._collections.items()}
        self._weights, self._calibrations = scale
        # Of the models that count.
        self.shares = shares_of(self._weights, self._cards)
        group_by = self._query.group_by
        self._group_field = None if group_by is None else parse_field(group_by)

    def page(self) -> tuple[list[FusedEntry], Mapping[str, CatalogEntry]]:
        """Returns the requested hits, and their images."""
        first, n_wanted = self._query.offset, self._query.offset + self._query.k
        kept: list[FusedEntry] = []
        images: dict[str, CatalogEntry] = {}
        groups: set[object] = set()
        for block in self._blocks():
            place = 0
            while place < len(block) and len(kept) < n_wanted:
                some = block[place : place + n_wanted - len(kept) + SPARE_HITS]
                place += len(some)
                # Some may just be being deleted.
                images |= self._ports.catalog.find(self._library_id, [one.image_id for one in some])
                for one in some:
                    entry = images.get(one.image_id)
                    if entry is not None and self._is_first_of_group(entry, groups):
                        kept.append(one)
            if len(kept) >= n_wanted:
                break
        return kept[first:n_wanted], images

    def _is_first_of_group(self, entry: CatalogEntry, groups: set[object]) -> bool:
        """Returns whether it is the first of its group. One without the field is always first."""
        if self._group_field is None:
            return True
        value = fields_of(entry.image).get(self._group_field)
        if value is None:
            return True
        group = comparable(value)
        is_first = group not in groups
        groups.add(group)
        return is_first

    def _blocks(self) -> Iterator[list[FusedEntry]]:
        seen: set[str] = set()
        depth = self._ports.n_candidates
        while True:
            self.listed, exact = self._lists.find(depth)
            self._watch.lap("search")
            fused = fuse(
                exact,
                self._cards,
                self._weights,
                limit=depth,
                fusion=Fusion(self._query.fusion),
                calibrations=self._calibrations,
            )
            block = [one for one in fused if one.image_id not in seen][: depth - len(seen)]
            if not seen:
                block = self._verify(self._rerank(block))
            seen |= {one.image_id for one in block}
            wanted = [one for one in block if self._is_wanted(one)]
            self._watch.lap("fuse")
            yield wanted
            if self._is_all(depth, block):
                return
            depth = min(depth * DEEPER, MAX_DEPTH)

    def _rerank(self, block: list[FusedEntry]) -> list[FusedEntry]:
        # Words are near no picture in the way that pictures are near each other.
        query = self._query
        if query.rerank == "none" or query.has_words or query.mode == "near":
            return block
        self._watch.lap("fuse")
        counted = {name: self._collections[name] for name in self.shares}
        ids = [one.image_id for one in block[:N_RERANKED]]
        stored = self._ports.examples.fetch(counted, ids)
        self._watch.lap("search")
        rows = {name: row[0] for name, row in self._rows.items()}
        reranked = order_by_neighbours(block[:N_RERANKED], stored, rows, self.shares)
        self._watch.lap("rerank")
        return reranked + block[N_RERANKED:]

    def _verify(self, block: list[FusedEntry]) -> list[FusedEntry]:
        """Moves what is proven to be a copy of the query up, within the best."""
        query = self._query
        if query.mode != "near" or not query.verify or not block:
            return block
        self._watch.lap("fuse")
        best = block[:N_VERIFIED]
        self.evidence = self._ports.copies.verify(
            self._ports.examples.read_one(self._asked_with),
            WHOLE if query.region is None else Region(*query.region),
            self._library_id,
            [one.image_id for one in best],
        )
        proven = [one for one in best if self._is_proven(one)]
        proven.sort(key=lambda one: -self.evidence[one.image_id].likeness)
        self._watch.lap("verify")
        return [*proven, *(one for one in block if not self._is_proven(one))]

    def _is_proven(self, one: FusedEntry) -> bool:
        evidence = self.evidence.get(one.image_id)
        return evidence is not None and evidence.verified

    def _is_wanted(self, one: FusedEntry) -> bool:
        return one.score >= self._query.min_score and all(
            (far := one.models[name].distance) is not None and not self._is_beyond(name, far)
            for name in self._query.max_distance
        )

    def _is_beyond(self, name: str, distance: float) -> bool:
        sign = self._cards[name].metric.sign
        return sign * distance > sign * self._query.max_distance[name]

    def _is_all(self, depth: int, block: Sequence[FusedEntry]) -> bool:
        """Returns whether nothing that is wanted comes after this."""
        full = {name: some for name, some in self.listed.items() if len(some) >= depth}
        return (
            not full
            or depth >= MAX_DEPTH
            or any(one.score < self._query.min_score for one in block)
            # What is farther than the last of a full list is beyond the limit as well.
            or any(
                name not in full or self._is_beyond(name, [*full[name].values()][-1])
                for name in self._query.max_distance
            )
        )


def _result(
    looked_for: Query,
    ranking: _Ranking,
    shown: Sequence[FusedEntry],
    images: Mapping[str, CatalogEntry],
    searched: Searched,
) -> SearchResult:
    query, listed = looked_for.asked, ranking.listed
    agreed = agreement({name: list(listed[name])[: query.k] for name in ranking.shares}, query.k)
    page = slice(query.offset, query.offset + query.k)
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
                evidence=ranking.evidence.get(one.image_id),
            )
            for rank, one in enumerate(shown, start=query.offset + 1)
        ],
        by_model={
            name: [
                RankedImage(rank=rank, image_id=image_id, distance=distances[image_id])
                for rank, image_id in enumerate(list(distances)[page], start=query.offset + 1)
            ]
            for name, distances in listed.items()
        },
        asked_with=looked_for.asked_with,
        library_images=searched.n_images,
        agreement=Agreement(
            overlap_at_k=agreed and agreed.overlap_at_k,
            rank_correlation=agreed and agreed.rank_correlation,
        ),
        indexed_through=searched.indexed_through,
        timing_ms=SearchTiming(queued=0, decode=0, embed=0, search=0, fuse=0, total=0),
    )


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
        stages = {"decode": 0.0, "embed": 0.0} | self._laps_ms
        rounded = {stage: round(ms, 2) for stage, ms in stages.items()}
        return SearchTiming(**rounded, total=round(sum(self._laps_ms.values()), 2))
