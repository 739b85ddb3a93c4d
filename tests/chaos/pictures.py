"""Pictures of a round: each number of each seed is one, and the same each time."""

from __future__ import annotations

import io
import tarfile
import zipfile
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from twinlens.shared.blobs import image_id_of

if TYPE_CHECKING:
    from collections.abc import Mapping

SIDE_PX = 48


@cache
def picture(seed: int, number: int) -> bytes:
    """A patchwork in colours of its own, so that each model tells it from all others."""
    rng = np.random.default_rng((seed, number))
    tint = rng.integers(40, 216, 3)
    coarse = np.clip(tint + rng.integers(-40, 41, (6, 6, 3)), 0, 255).astype(np.uint8)
    content = io.BytesIO()
    size = (SIDE_PX, SIDE_PX)
    Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST).save(content, "PNG")
    return content.getvalue()


@cache
def id_of(seed: int, number: int) -> str:
    return image_id_of(picture(seed, number))


def zip_of(files: Mapping[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        for name, content in files.items():
            writer.writestr(name, content)
    return archive.getvalue()


def tar_of(files: Mapping[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as writer:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            writer.addfile(entry, io.BytesIO(content))
    return archive.getvalue()
