"""Keeps the distribution of distances between pictures, for each library and model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from twinlens.models.calibration import N_SAMPLE, Calibration, calibrate, prior_of
from twinlens.workers.library.each import look_after_each

if TYPE_CHECKING:
    from twinlens.shared.libraries import Library
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.workers.milvus.vectors import Vectors
    from twinlens.workers.targets import Targets

# The factor by which a library grows, or shrinks, before it is measured again.
GROWTH = 1.25


class Kept(BaseModel):
    """A calibration as the catalogue has it, and the rule by which it was measured.

    The number changes with `calibrate`, so that what older workers measured is measured again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Literal[1] = 1
    calibration: Calibration


def read_calibration(text: str) -> Calibration | None:
    """Returns a calibration that the catalogue has; None if it was measured by another rule."""
    try:
        return Kept.model_validate_json(text).calibration
    except ValidationError:
        return None


@dataclass(frozen=True, kw_only=True)
class Calibrations:
    """Measures libraries. Every method raises `Unavailable` if Milvus does not answer."""

    catalog: Catalog
    vectors: Vectors
    targets: Targets

    def keep(self) -> None:
        """Measures the libraries whose calibrations are missing or out of date."""
        look_after_each(self.catalog, self._keep)

    def _keep(self, library: Library) -> None:
        n_images = self.catalog.count(library.id)
        known = {
            name: read_calibration(text)
            for name, text in self.catalog.calibrations(library.id).items()
        }
        wanted = library.all_collections
        if n_images and not all(_is_still_right(known.get(name), n_images) for name in wanted):
            self.measure(library, n_images)

    def measure(self, library: Library, n_images: int) -> None:
        """Measures a library under all of its models, with one random sample of its images."""
        ids = self.catalog.random_ids(library.id, N_SAMPLE)
        measured: dict[str, str] = {}
        for name, target in self.targets.of_editions(library).items():
            rows = list(self.vectors.fetch(target.collection, ids).values())
            calibration = calibrate(np.array(rows), prior_of(target.collection.card), n_images)
            measured[name] = Kept(calibration=calibration).model_dump_json()
        self.catalog.put_calibrations(library.id, measured)


def _is_still_right(known: Calibration | None, n_images: int) -> bool:
    return known is not None and n_images / GROWTH <= known.n_pictures <= n_images * GROWTH
