"""Builds the int8 versions of shipped models, from ranges that come with the package.

The ranges were measured once, on the golden pictures: so no machine has to calibrate, and all
build the same file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from twinlens.models.build.quantize import measure_ranges, quantize_model
from twinlens.models.cards import SHIPPED_CARDS
from twinlens.models.pictures import open_picture

if TYPE_CHECKING:
    from twinlens.models.build.quantize import Ranges
    from twinlens.models.card import InputSpec

# More say nothing: the 255 steps of a uint8 are 0.4 % of a range each.
N_DIGITS = 6


def build_int8(name: str, model: bytes) -> bytes:
    """Quantises the float version of a shipped model with the ranges that are kept of it."""
    return quantize_model(model, json.loads(_path(name).read_text(encoding="utf-8")))


def measure_shipped_ranges(name: str, model: bytes, spec: InputSpec) -> Ranges:
    """Measures a shipped model's ranges on the golden pictures, and keeps them."""
    pictures = [
        open_picture(path.read_bytes(), wanted_px=spec.wanted_px).pixels_for(spec)[None]
        for path in sorted((SHIPPED_CARDS / "golden").glob("*.png"))
    ]
    rounded = {
        tensor: (_rounded(least), _rounded(largest))
        for tensor, (least, largest) in measure_ranges(model, pictures).items()
    }
    _path(name).write_text(json.dumps(rounded, indent=0) + "\n", encoding="utf-8")
    return rounded


def _path(name: str) -> Path:
    return SHIPPED_CARDS / "ranges" / f"{name}.json"


def _rounded(number: float) -> float:
    return float(f"{number:.{N_DIGITS}g}")
