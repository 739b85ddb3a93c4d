"""Adds words to a query, under the models that understand them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from twinlens.models.calibration import Calibration, calibrate_query, prior_of
from twinlens.models.words import N_SAMPLE, NEGATIVE_SHARE, combine_parts
from twinlens.shared.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from twinlens.shared.redis.catalog import Catalog
    from twinlens.workers.milvus.vectors import Vectors
    from twinlens.workers.query.examples import Query, QueryEmbeddings
    from twinlens.workers.targets import Target, Targets


class Worded(NamedTuple):
    """What a query with words is under one model, and how near pictures lie to it."""

    row: NDArray[np.float32]
    calibration: Calibration


@dataclass(frozen=True, kw_only=True)
class Words:
    """Embeds words, and puts them together with the pictures of a query."""

    catalog: Catalog
    targets: Targets
    vectors: Vectors
    threads: Executor  # run the models; onnxruntime and gRPC both release the GIL

    def add(
        self, query: Query, pictures: QueryEmbeddings, known: Mapping[str, Calibration]
    ) -> tuple[QueryEmbeddings, dict[str, Calibration]]:
        """Adds a query's words.

        Args:
            query: The query.
            pictures: What its pictures are under each model; empty if it has none.
            known: The library's calibrations, by model.

        Returns:
            Embeddings and calibrations, by model: those of models that understand no words are as
            they were.

        Raises:
            BadRequest: No model understands words.
            BadEmbedding: A model makes nothing of these words.
            Unavailable: Milvus does not answer.
        """
        if not query.knowing:
            raise BadRequest("None of the models that were asked has a text encoder.")
        # The same each time, so their embeddings are in the process's memory.
        ids = self.catalog.spread_ids(query.library_id, N_SAMPLE)

        def add(target: Target) -> Worded:
            card = target.model.card
            prior = known.get(card.name) or prior_of(card)
            return self._add(query, target, pictures, ids, prior)

        worded = zip(query.knowing, self.threads.map(add, query.knowing.values()), strict=True)
        made = dict(worded)
        rows = pictures | {name: one.row[None] for name, one in made.items()}
        return rows, dict(known) | {name: one.calibration for name, one in made.items()}

    def _add(
        self,
        query: Query,
        target: Target,
        pictures: QueryEmbeddings,
        ids: Sequence[str],
        prior: Calibration,
    ) -> Worded:
        model, collection = target
        parts = []
        if model.card.name in pictures:
            share = 1.0 if query.has_examples else NEGATIVE_SHARE
            parts.append((share, pictures[model.card.name][0]))
        encoder = self.targets.text_encoder(model)
        for share, text in ((1.0, query.asked.text), (-NEGATIVE_SHARE, query.asked.negative_text)):
            if text is not None:
                parts.append((share, encoder.encode(text)))
        stored = list(self.vectors.fetch(collection, ids).values())
        sample = np.array(stored, np.float32).reshape(-1, model.card.dimension)
        row = combine_parts(parts, sample)
        return Worded(row, calibrate_query((sample @ row).astype(np.float64), prior))
