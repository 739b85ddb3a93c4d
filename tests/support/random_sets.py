"""Sets of labelled embeddings drawn at random, for tests of evaluation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinlens.models.calibration import Calibration, Measured
from twinlens.models.distances import Metric
from twinlens.models.workbench.embeddings import Embedded
from twinlens.models.workbench.labels import Labelled


@dataclass(frozen=True)
class Model:
    metric: Metric
    dimension: int
    calibration: Calibration | None = None


MODELS = {
    "bits": Model(Metric.HAMMING, 32),
    "cos": Model(Metric.COSINE, 6),
    "ip": Model(Metric.IP, 8),
    "l2": Model(Metric.L2, 8),
}


def random_rows(model: Measured, centres: NDArray[np.intp], rng: np.random.Generator) -> Any:
    """Embeddings that lie around a centre for each label, far from all apart."""
    if model.metric is Metric.HAMMING:
        bits = np.random.default_rng(1).integers(0, 2, (100, model.dimension))[centres]
        flips = rng.random(bits.shape) < 0.25
        return np.packbits(bits ^ flips, axis=1)
    around = np.random.default_rng(2).normal(size=(100, model.dimension))[centres]
    rows = around + rng.normal(size=around.shape) * 1.2
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_set(
    sizes: tuple[int, ...] = (7, 5, 3, 2, 1), seed: int = 0, models: dict[str, Model] = MODELS
) -> tuple[Embedded, list[Labelled]]:
    """Pictures of labels of these sizes, in an order that is not the ids'."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    files = tuple(Path(f"{place}.jpg") for place in range(len(codes)))
    embedded = Embedded(
        files=files,
        image_ids=tuple(hashlib.sha256(path.name.encode()).hexdigest() for path in files),
        rows={name: random_rows(model, codes, rng) for name, model in models.items()},
        models=models,
    )
    return embedded, [
        Labelled(path, f"label {code}") for path, code in zip(files, codes, strict=True)
    ]
