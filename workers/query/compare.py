"""Two pictures under every model, as a search would see the one that looks for the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.models.distances import pairwise_distances
from twinlens.models.fusion import fuse
from twinlens.shared.messages import Compared, Comparison, SearchQuery
from twinlens.workers.query.examples import Asked, query_rows, read_pictures
from twinlens.workers.query.search import calibrations_of, weights_of

if TYPE_CHECKING:
    from twinlens.shared.messages import CompareQuery
    from twinlens.workers.process.runtime import Runtime

# What stands for the second picture in the fusion.
_OTHER = "other"


def compare(runtime: Runtime, task_id: str, query: CompareQuery) -> Comparison:
    """Compares two pictures; nothing is stored.

    Args:
        runtime: What the process holds.
        task_id: Names the pictures that were sent, in Redis.
        query: Which models, and the stored images, if not both were sent.

    Raises:
        PictureError: A picture is refused.
        ImageNotFound: A stored image is not there.
    """
    searched = runtime.catalog.searched(query.library)
    targets = runtime.targets_of(searched.library, searched.library.choose(query.models))
    sent = read_pictures(runtime, task_id, 2 - len(query.image_ids))
    each = [
        *(Asked(runtime, SearchQuery(library=query.library), targets, [one]) for one in sent),
        *(
            Asked(runtime, SearchQuery(library=query.library, image_id=image_id), targets)
            for image_id in query.image_ids
        ),
    ]
    first, second = (query_rows(asked, lambda _: None) for asked in each)
    cards = {name: collection.card for name, collection in each[0].collections.items()}
    distances = {
        name: {_OTHER: float(pairwise_distances(first[name], second[name], card)[0, 0])}
        for name, card in cards.items()
    }
    weights = weights_of(searched.library, cards, "similar", {})
    [found] = fuse(distances, cards, weights, calibrations=calibrations_of(searched, targets))
    return Comparison(
        score=found.score,
        models={
            name: Compared(distance=distances[name][_OTHER], score=view.score)
            for name, view in found.models.items()
        },
    )
