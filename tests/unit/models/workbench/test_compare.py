"""Pictures for a comparison: those that can be decoded."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from twinlens.models.card import InputSpec
from twinlens.models.errors import BadInput
from twinlens.models.workbench.compare import read_pixels


def test_what_cannot_be_read_or_decoded_is_skipped(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    files = [tmp_path / name for name in ("gone.png", ".", "broken.png", "red.png")]
    spec = InputSpec(width=8, height=8)

    [pixels] = read_pixels(files, spec, 5)

    assert pixels.tolist() == [[[255, 0, 0]] * 8] * 8
    with pytest.raises(BadInput, match="none of these files"):
        read_pixels(files[:3], spec, 5)
