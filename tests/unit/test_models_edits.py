"""Edited copies are what their names say, and are embedded as such."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import Watched, open_phash, write_picture, write_pictures

from twinlens.models.edits import EDITS, edit_picture, embed_edits
from twinlens.models.embeddings import EmbeddingCache, embed_all
from twinlens.models.pictures import open_picture
from twinlens.models.session import OnnxEmbedder
from twinlens.shared.errors import BrokenPicture


@pytest.fixture(scope="module")
def phash() -> OnnxEmbedder:
    return open_phash()


def test_edits_are_what_their_names_say(tmp_path: Path) -> None:
    original = write_picture(tmp_path / "a.png", 1, side_px=200)
    before = np.asarray(Image.open(original)).astype(float)

    edits = edit_picture(original.read_bytes())

    assert tuple(edits) == EDITS
    images = {kind: Image.open(io.BytesIO(content)) for kind, content in edits.items()}
    sizes = {kind: image.size for kind, image in images.items()}
    assert sizes == dict.fromkeys(EDITS, (200, 200)) | {
        "crop80": (160, 160),
        "resize50": (100, 100),
    }
    pixels = {kind: np.asarray(image).astype(float) for kind, image in images.items()}
    assert np.abs(pixels["crop80"] - before[20:180, 20:180]).mean() < 4
    assert np.abs(pixels["flip"] - before[:, ::-1]).mean() < 4
    assert len(edits["jpegq30"]) < len(edits["flip"])
    marked = np.abs(pixels["watermark"] - before).max(axis=2)
    assert marked[:60].mean() < 5
    assert (marked > 40).mean() > 0.01


def test_edits_are_embedded_with_the_id_of_their_original(
    tmp_path: Path, phash: OnnxEmbedder
) -> None:
    files = write_pictures(tmp_path / "photos", 4)
    cache = EmbeddingCache(tmp_path / "cache")
    embedded = embed_all([phash], files, cache)
    watched = Watched(phash)

    edits = embed_edits([watched], embedded, cache)

    assert sorted(edits.originals) == sorted(list(embedded.image_ids) * 5)
    assert edits.kinds == EDITS * 4
    content = edit_picture(files[embedded.image_ids.index(edits.originals[0])].read_bytes())["flip"]
    pixels = open_picture(content, wanted_px=32).pixels_for(phash.card.input)
    assert np.array_equal(edits.rows["phash"][3], phash.embed_batch(pixels[np.newaxis])[0])
    assert watched.n_embedded == 20
    embed_edits([watched], embedded, cache)
    assert watched.n_embedded == 20


def test_an_original_that_is_gone_has_no_edits(tmp_path: Path, phash: OnnxEmbedder) -> None:
    files = write_pictures(tmp_path / "photos", 3)
    cache = EmbeddingCache(tmp_path / "cache")
    embedded = embed_all([phash], files, cache)
    files[1].unlink()

    assert len(embed_edits([phash], embedded, cache).originals) == 10
    with pytest.raises(BrokenPicture):
        edit_picture(files[0].read_bytes()[:100])
