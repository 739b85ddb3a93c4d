"""Edited copies are what their names say, and are embedded as such."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.small_models import Watched, open_phash, write_picture, write_pictures

from twinlens.models.pictures import open_picture
from twinlens.models.session import OnnxEmbedder
from twinlens.models.workbench.edits import EDITS, edit_picture, embed_edits
from twinlens.models.workbench.embeddings import EmbeddingCache, embed_all
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
        "crop50": (100, 100),
        "resize50": (100, 100),
        "border": (220, 220),
        "canvas": (332, 332),
    }
    pixels = {
        kind: np.asarray(image.convert("RGB")).astype(float) for kind, image in images.items()
    }
    assert np.abs(pixels["crop80"] - before[20:180, 20:180]).mean() < 4
    assert np.abs(pixels["crop50"] - before[50:150, 50:150]).mean() < 4
    assert np.abs(pixels["flip"] - before[:, ::-1]).mean() < 4
    for n_quarters in (1, 2, 3):
        turned = pixels[f"rot{90 * n_quarters}"]
        assert np.abs(turned - np.rot90(before, n_quarters)).mean() < 4
    assert len(edits["jpegq30"]) < len(edits["flip"])
    assert images["grey"].mode == "L"
    assert np.abs(pixels["dark"] - 0.6 * before).mean() < 4
    assert np.abs(pixels["border"][10:210, 10:210] - before).mean() < 5
    assert pixels["border"][:8].max() < 20
    assert np.abs(pixels["canvas"][66:266, 66:266] - before).mean() < 5
    assert pixels["canvas"][:60].min() > 235
    marked = np.abs(pixels["watermark"] - before).max(axis=2)
    assert marked[:60].mean() < 5
    assert (marked > 40).mean() > 0.01


def test_blur_takes_the_detail_and_leaves_the_light() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")

    blurred = np.asarray(Image.open(io.BytesIO(edit_picture(stream.getvalue())["blur"])))

    # A Gaussian of one pixel leaves 0.28 of the deviation of noise.
    assert blurred.mean() == pytest.approx(noise.mean(), abs=2)
    assert blurred.std() < 0.5 * noise.std()


def test_edits_are_embedded_with_the_id_of_their_original(
    tmp_path: Path, phash: OnnxEmbedder
) -> None:
    files = write_pictures(tmp_path / "photos", 4)
    cache = EmbeddingCache(tmp_path / "cache")
    embedded = embed_all([phash], files, cache)
    watched = Watched(phash)

    edits = embed_edits([watched], embedded, cache)

    assert sorted(edits.originals) == sorted(list(embedded.image_ids) * len(EDITS))
    assert edits.kinds == EDITS * 4
    content = edit_picture(files[embedded.image_ids.index(edits.originals[0])].read_bytes())["flip"]
    pixels = open_picture(content, wanted_px=32).pixels_for(phash.card.input)
    assert np.array_equal(
        edits.rows["phash"][EDITS.index("flip")], phash.embed_batch(pixels[np.newaxis])[0]
    )
    assert watched.n_embedded == 4 * len(EDITS)
    embed_edits([watched], embedded, cache)
    assert watched.n_embedded == 4 * len(EDITS)


def test_an_original_that_is_gone_has_no_edits(tmp_path: Path, phash: OnnxEmbedder) -> None:
    files = write_pictures(tmp_path / "photos", 3)
    cache = EmbeddingCache(tmp_path / "cache")
    embedded = embed_all([phash], files, cache)
    files[1].unlink()

    assert len(embed_edits([phash], embedded, cache).originals) == 2 * len(EDITS)
    with pytest.raises(BrokenPicture):
        edit_picture(files[0].read_bytes()[:100])
