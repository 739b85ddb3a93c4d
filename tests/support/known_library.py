"""Libraries whose pictures lie where a test puts them: no picture is embedded, all is written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from support.records import image
from support.tiny_pair import pair_card, picture_graph, text_graph, tokenizer_file

from twinlens.models.build import build_model
from twinlens.models.card import load_card
from twinlens.models.cards import SHIPPED_CARDS
from twinlens.models.distances import Metric
from twinlens.models.registry import Registry
from twinlens.shared.filters.fields import fields_of
from twinlens.shared.libraries import Library, new_library
from twinlens.shared.messages import CatalogEntry
from twinlens.workers.milvus.collection import collection_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from twinlens.models.card import Card
    from twinlens.shared.messages import Image, Metadata
    from twinlens.workers.milvus.vectors import Vectors
    from twinlens.workers.process.runtime import Runtime

COLOURS, TINT, PHASH = "colours", "tint", "phash"


def make_shelf(folder: Path) -> Path:
    """Makes a directory of models: two of three numbers, the first knows words too, and a hash."""
    registry = Registry(folder)
    folder.mkdir()
    registry.add(pair_card(), picture_graph(), (text_graph(), tokenizer_file()))
    # Of other bytes, or it were the same model to those who keep its embeddings.
    graph = onnx.load_from_string(picture_graph())
    graph.doc_string = TINT
    tint = pair_card().model_copy(update={"name": TINT, "text": None})
    registry.add(tint, graph.SerializeToString())
    registry.add(load_card(SHIPPED_CARDS / "phash@1.toml"), build_model("phash@1"))
    return folder


def id_of(number: int) -> str:
    """Ids whose order is not that of the pictures."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def at_angles(degrees: Sequence[float]) -> NDArray[np.float32]:
    """Embeddings of length 1 on a circle: their cosine is that of the angle between them."""
    angles = np.radians(np.array(degrees, np.float64))
    return np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1).astype(np.float32)


def at_cosines(cosines: Sequence[float]) -> NDArray[np.float32]:
    """Embeddings with these cosines to the one at 0 degrees."""
    return at_angles(np.degrees(np.arccos(cosines)).tolist())


def of_bits(n_set: Sequence[int]) -> NDArray[np.uint8]:
    """Hashes whose distance is the difference of these numbers."""
    return np.packbits(np.arange(64) < np.array(n_set)[:, np.newaxis], axis=1)


def true_distances(rows: NDArray[Any], query: NDArray[Any], metric: Metric) -> list[float]:
    """What Milvus documents of each metric, picture by picture."""
    if metric is Metric.HAMMING:
        return [float(np.unpackbits(row ^ query).sum()) for row in rows]
    wide, one = rows.astype(np.float64), query.astype(np.float64)
    distances: list[float] = {
        Metric.L2: ((wide - one) ** 2).sum(axis=1),
        Metric.IP: wide @ one,
        Metric.COSINE: wide @ one / np.linalg.norm(wide, axis=1) / np.linalg.norm(one),
    }[metric].tolist()
    return distances


@dataclass(frozen=True)
class Known:
    """A library whose vectors are written."""

    library: Library
    rows: Mapping[str, NDArray[Any]]  # by model, in the order of the numbers
    images: Sequence[Image]  # the same

    @property
    def ids(self) -> list[str]:
        return [image.id for image in self.images]

    def numbers(self, ids: Sequence[str]) -> list[int]:
        places = {image_id: number for number, image_id in enumerate(self.ids)}
        return [places[image_id] for image_id in ids]

    def put(self, runtime: Runtime, without: Sequence[int] = ()) -> None:
        """Writes the library's records; some of its pictures may have none."""
        runtime.catalog.ensure_library(self.library)
        collections = set(self.library.collections.values())
        entries = [
            CatalogEntry(image=one, added_by="j:0:0", collections=collections)
            for number, one in enumerate(self.images)
            if number not in without
        ]
        assert runtime.catalog.put(self.library.id, entries) == []


def write_known(
    vectors: Vectors,
    cards: Mapping[str, Card],
    rows: Mapping[str, NDArray[Any]],
    *,
    metric: Any = None,
    metadata: Sequence[Metadata] | None = None,
) -> Known:
    """Writes a library's vectors.

    Args:
        vectors: Where to.
        cards: By model.
        rows: By model, all of one length.
        metric: The library's.
        metadata: Of each picture; none by default.
    """
    refs = [cards[name].ref for name in rows]
    library = new_library("known", refs, metric=metric)
    n_rows = len(next(iter(rows.values())))
    images = [
        image(id_of(number), f"{number}.jpg", "known").model_copy(update={"metadata": said})
        for number, said in enumerate(metadata or [{} for _ in range(n_rows)])
    ]
    known = Known(library, rows, images)
    fields = [fields_of(one) for one in images]
    for name, some in rows.items():
        vectors.upsert(collection_of(library, cards[name]), known.ids, some, fields)
    return known
