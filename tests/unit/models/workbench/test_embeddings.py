"""Embeddings of many files: each once, kept, and gone on with after an interruption."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.small_models import Watched, colour_model, open_phash, write_picture, write_pictures

from twinlens.models.errors import BadInput
from twinlens.models.pictures import open_picture
from twinlens.models.session import OnnxEmbedder
from twinlens.models.workbench.embeddings import CHUNK, EmbeddingCache, embed_all
from twinlens.shared.errors import BadEmbedding


@pytest.fixture(scope="module")
def phash() -> OnnxEmbedder:
    return open_phash()


def test_rows_are_what_each_model_gives_for_each_picture_alone(
    tmp_path: Path, phash: OnnxEmbedder
) -> None:
    files = write_pictures(tmp_path / "photos", CHUNK + 5)
    models = [colour_model(), phash]
    progress: list[int] = []

    embedded = embed_all(models, files, EmbeddingCache(tmp_path / "cache"), progress.append)

    assert embedded.files == tuple(files)
    assert embedded.image_ids[3] == hashlib.sha256(files[3].read_bytes()).hexdigest()
    assert progress == [CHUNK, CHUNK + 5]
    for model in models:
        for row, path in zip(embedded.rows[model.card.name], files, strict=True):
            picture = open_picture(path.read_bytes(), wanted_px=32)
            [alone] = model.embed_batch(picture.pixels_for(model.card.input)[np.newaxis])
            assert row == pytest.approx(alone, abs=1e-6)


def test_what_is_kept_is_not_embedded_again(tmp_path: Path, phash: OnnxEmbedder) -> None:
    files = write_pictures(tmp_path / "photos", 7)
    cache = EmbeddingCache(tmp_path / "cache")
    first = embed_all([phash], files, cache)
    watched, other = Watched(phash), Watched(colour_model())

    again = embed_all([watched, other], [*files, write_picture(tmp_path / "new.png", 99)], cache)

    assert (watched.n_embedded, other.n_embedded) == (1, 8)
    assert np.array_equal(again.rows["phash"][:7], first.rows["phash"])


KILLED = """
import os, sys
from pathlib import Path
from twinlens.models.build import build_model
from twinlens.models.card import load_card
from twinlens.models.workbench.embeddings import EmbeddingCache, embed_all
from twinlens.models.cards import SHIPPED_CARDS
from twinlens.models.session import OnnxEmbedder

photos, cache, log, where, at = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]

class Watched(OnnxEmbedder):
    def embed_batch(self, pixels):
        if where == "embedding" and Path(log).exists() and Path(log).stat().st_size >= int(at):
            os._exit(9)
        with open(log, "a") as stream:
            stream.write("x" * len(pixels))
        return super().embed_batch(pixels)

def on_progress(n_done):
    if where == "progress" and n_done >= int(at):
        os._exit(9)

model = Watched(load_card(SHIPPED_CARDS / "phash@1.toml"), build_model("phash@1"))
embed_all([model], sorted(photos.iterdir()), EmbeddingCache(cache), on_progress)
"""


@pytest.mark.parametrize(("where", "at"), [("progress", 2 * CHUNK), ("embedding", CHUNK)])
def test_an_interrupted_evaluation_goes_on_where_it_was(
    tmp_path: Path, phash: OnnxEmbedder, where: str, at: int
) -> None:
    files = write_pictures(tmp_path / "photos", 2 * CHUNK + 10)
    log, cache = tmp_path / "log", tmp_path / "cache"
    command = [sys.executable, "-c", KILLED, tmp_path / "photos", cache, log, where, str(at)]

    killed = subprocess.run([str(part) for part in command], check=False, timeout=100)

    assert killed.returncode == 9
    n_kept = len(EmbeddingCache(cache).load(phash.card))
    assert n_kept == {"progress": 2 * CHUNK, "embedding": CHUNK}[where]
    watched = Watched(phash)
    embedded = embed_all([watched], files, EmbeddingCache(cache))
    assert watched.n_embedded == len(files) - n_kept
    n_twice = log.stat().st_size + watched.n_embedded - len(files)
    assert n_twice <= {"progress": 0, "embedding": CHUNK}[where]
    fresh = embed_all([phash], files, EmbeddingCache(tmp_path / "other"))
    assert np.array_equal(embedded.rows["phash"], fresh.rows["phash"])


def test_a_damaged_part_is_embedded_again(tmp_path: Path, phash: OnnxEmbedder) -> None:
    files = write_pictures(tmp_path / "photos", CHUNK + 3)
    cache = EmbeddingCache(tmp_path / "cache")
    whole = embed_all([phash], files, cache)
    parts = sorted((tmp_path / "cache").rglob("*.npz"), key=lambda part: part.stat().st_size)
    parts[0].write_bytes(parts[0].read_bytes()[:-40])
    (parts[0].parent / "other.npz").write_bytes(b"no archive")
    (parts[0].parent / ".half").write_bytes(b"left by a killed process")
    watched = Watched(phash)

    again = embed_all([watched], files, cache)

    assert watched.n_embedded == 3
    assert np.array_equal(again.rows["phash"], whole.rows["phash"])


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "2"},
        {"sha256": "1" * 64},
        {"input": {"width": 32, "height": 32, "fit": "crop", "crop_fraction": 0.5}},
    ],
)
def test_another_version_file_or_crop_shares_nothing(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    files = write_pictures(tmp_path / "photos", 3)
    cache = EmbeddingCache(tmp_path / "cache")
    embed_all([colour_model()], files, cache)
    changed = Watched(colour_model(**changes))

    embed_all([changed], files, cache)

    assert changed.n_embedded == 3


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")

    with pytest.raises(BadInput, match=r"cannot be kept in .*cache .*name another"):
        embed_all([colour_model()], write_pictures(tmp_path, 1), EmbeddingCache(tmp_path / "cache"))


def test_files_without_embedding_are_left_out_with_the_reason(tmp_path: Path) -> None:
    good = write_picture(tmp_path / "good.png", 1)
    copy, text, half = (tmp_path / name for name in ("copy.png", "text.png", "half.png"))
    copy.write_bytes(good.read_bytes())
    text.write_text("no picture")
    half.write_bytes(good.read_bytes()[:-60])
    black = tmp_path / "black.png"
    Image.new("RGB", (40, 40)).save(black)
    files = [text, good, tmp_path / "gone.png", copy, black, half, write_picture(tmp_path / "b", 2)]

    embedded = embed_all([colour_model()], files, EmbeddingCache(tmp_path / "cache"))

    assert embedded.files == (good, tmp_path / "b")
    assert embedded.rows["colour"].shape == (2, 3)
    reasons = {left_out.path.name: left_out.reason for left_out in embedded.left_out}
    assert list(reasons) == ["text.png", "gone.png", "copy.png", "black.png", "half.png"]
    assert "no picture type" in reasons["text.png"]
    assert reasons["gone.png"] == "it cannot be read: No such file or directory"
    assert reasons["copy.png"] == "the same file as good.png"
    assert reasons["black.png"] == "model colour gives a vector that is not finite"
    assert "cannot be decoded" in reasons["half.png"]


def test_one_vector_that_is_not_finite_costs_no_other_picture(tmp_path: Path) -> None:
    files = write_pictures(tmp_path / "photos", 9)
    Image.new("RGB", (40, 40)).save(files[4])
    with pytest.raises(BadEmbedding):
        colour_model().embed_batch(np.zeros((1, 32, 32, 3), np.uint8))

    embedded = embed_all([colour_model()], files, EmbeddingCache(tmp_path / "cache"), n_threads=1)

    assert embedded.files == tuple(files[:4] + files[5:])


def test_no_picture_at_all_says_why(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none of the 1 files.*No such file"):
        embed_all([colour_model()], [tmp_path / "x.png"], EmbeddingCache(tmp_path / "cache"))


def test_two_versions_of_a_model_can_be_compared_and_none_be_given_twice(tmp_path: Path) -> None:
    files = write_pictures(tmp_path / "photos", 3)
    cache = EmbeddingCache(tmp_path / "cache")

    embedded = embed_all([colour_model(), colour_model(version="2")], files, cache)

    assert sorted(embedded.rows) == ["colour@1", "colour@2"]
    with pytest.raises(BadInput, match="none twice"):
        embed_all([colour_model(), colour_model()], files, cache)
