"""What each model lists as nearest to a query, and how far each finds what any of them lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.shared.filters.language import parse_filter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from twinlens.workers.milvus.vectors import Vectors
    from twinlens.workers.query.examples import Query, QueryEmbeddings

DistancesByModel = dict[str, dict[str, float]]  # model → image id → distance, nearest first


class Lists:
    """What each model lists as nearest, and how far every model finds what any of them lists."""

    def __init__(
        self, query: Query, rows: QueryEmbeddings, vectors: Vectors, threads: Executor
    ) -> None:
        asked = query.asked
        self._rows = rows
        self._vectors = vectors
        self._threads = threads
        self._collections = query.collections
        self._filter = None if asked.filter is None else parse_filter(asked.filter)
        self._unwanted = set(asked.exclude)
        if not asked.include_query:
            self._unwanted |= {*asked.example_ids, *asked.negative}

    def find(self, depth: int) -> tuple[DistancesByModel, DistancesByModel]:
        """Returns each model's own list, and every model's exact distance to all that any listed.

        So no result depends on which model happened to list a candidate.
        """
        names = list(self._collections)
        own = self._threads.map(lambda name: self._ask(name, depth), names)
        listed = dict(zip(names, own, strict=True))
        union = {image_id for distances in listed.values() for image_id in distances}

        def complete(name: str) -> dict[str, float]:
            missing = sorted(union - listed[name].keys())
            if not missing:
                return listed[name]
            measured = self._vectors.distances_to(
                self._collections[name], self._rows[name], missing
            )
            return listed[name] | self._best(name, measured)

        return listed, dict(zip(names, self._threads.map(complete, names), strict=True))

    def _ask(self, name: str, depth: int) -> dict[str, float]:
        nearest = self._vectors.nearest(
            self._collections[name],
            self._rows[name],
            depth + len(self._unwanted),
            where=self._filter,
        )
        best = self._best(name, nearest)
        wanted = [(i, far) for i, far in best.items() if i not in self._unwanted]
        return dict(wanted[:depth])

    def _best(self, name: str, by_variant: Sequence[dict[str, float]]) -> dict[str, float]:
        """Returns, for each image, the distance to the query's nearest variant."""
        if len(by_variant) == 1:
            return by_variant[0]
        sign = self._collections[name].card.metric.sign
        best: dict[str, float] = {}
        for distances in by_variant:
            for image_id, far in distances.items():
                if image_id not in best or sign * far < sign * best[image_id]:
                    best[image_id] = far
        return dict(sorted(best.items(), key=lambda one: (sign * one[1], one[0])))
