"""Keeps the distribution of distances between pictures, for each library and model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from twinlens.models.calibration import N_SAMPLE, Calibration, calibrate, prior_of

if TYPE_CHECKING:
    from twinlens.shared.libraries import Library
    from twinlens.workers.process.runtime import Runtime

# By how much a library has grown, or shrunk, before it is measured again.
GROWTH = 1.25


def calibrate_libraries(runtime: Runtime) -> None:
    """Measures those libraries of which not enough, or much else, is known."""
    for library in runtime.catalog.libraries():
        n_images = runtime.catalog.count(library.name)
        known = {
            name: Calibration.model_validate_json(text)
            for name, text in runtime.catalog.calibrations(library.name).items()
        }
        wanted = library.all_collections
        if n_images and not all(
            name in known and _is_still_right(known[name], n_images) for name in wanted
        ):
            calibrate_library(runtime, library, n_images)


def calibrate_library(runtime: Runtime, library: Library, n_images: int) -> None:
    """Measures a library under all of its models, by one random sample of its images."""
    ids = runtime.catalog.random_ids(library.name, N_SAMPLE)
    found: dict[str, str] = {}
    for edition in library.editions:
        for _, collection in runtime.targets_of(edition):
            rows = list(runtime.vectors.fetch(collection, ids).values())
            prior = prior_of(collection.card)
            measured = calibrate(np.array(rows), prior, n_images) if rows else prior
            found[collection.name] = measured.model_dump_json()
    runtime.catalog.put_calibrations(library.name, found)


def _is_still_right(known: Calibration, n_images: int) -> bool:
    return n_images / GROWTH <= known.n_pictures <= n_images * GROWTH
