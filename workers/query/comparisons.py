"""Compares two pictures under every model, as a search with one would see the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlens.models.distances import pairwise_distances
from twinlens.models.fusion import fuse
from twinlens.shared.queries import Compared, Comparison, SearchQuery
from twinlens.workers.query.examples import Query
from twinlens.workers.query.searches import calibrations_of, weights_of

if TYPE_CHECKING:
    from twinlens.shared.queries import CompareQuery
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.workers.query.examples import Examples
    from twinlens.workers.targets import Targets

# What stands for the second picture in the fusion.
_OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """Compares two pictures; nothing is stored."""

    catalog: Catalog
    targets: Targets
    examples: Examples

    def compare(self, task_id: str, asked: CompareQuery) -> Comparison:
        """Compares two pictures.

        Args:
            task_id: Identifies the pictures that were sent, in Redis.
            asked: Which models, and the stored images unless both pictures were sent.

        Raises:
            PictureError: A picture is refused.
            ImageNotFound: A stored image, or a model's embedding of it, is missing.
        """
        searched = self.catalog.searched(asked.library)
        targets = self.targets.of(searched.library, searched.library.choose(asked.models))
        sent = self.examples.read_sent(task_id, 2 - len(asked.image_ids))
        library_id = searched.library.id
        queries = [Query(SearchQuery(), library_id, targets, [one]) for one in sent]
        queries += [
            Query(SearchQuery(image_id=image_id), library_id, targets)
            for image_id in asked.image_ids
        ]
        first, second = (self.examples.embed(query, lambda _: None) for query in queries)
        cards = {target.model.card.name: target.collection.card for target in targets}
        distances = {
            name: {_OTHER: float(pairwise_distances(first[name], second[name], card)[0, 0])}
            for name, card in cards.items()
        }
        weights = weights_of(searched.library, cards, "similar", {})
        calibrations = calibrations_of(searched, targets)
        [other] = fuse(distances, cards, weights, calibrations=calibrations)
        return Comparison(
            score=other.score,
            models={
                name: Compared(distance=distances[name][_OTHER], score=view.score)
                for name, view in other.models.items()
            },
        )
