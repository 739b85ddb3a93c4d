"""`twinlens models compare`, as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from support.photos import make_photos
from support.tiny_networks import anchored

from twinlens.cli.main import main

# The hash, and a network that has the same pixels with its own eyes.
FIRST, SECOND = "phash@1", "colours@1"


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    make_photos(folder / "photos", 25, seed=11)
    (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    shutil.copytree(built, folder / "models")
    (folder / "colours.onnx").write_bytes(anchored("nchw"))
    added = ("models", "add", folder / "colours.onnx", "--name", "colours")
    assert run(*added, "--dir", folder / "models").exit_code == 0
    return folder


def compare(folder: Path, *words: object) -> Result:
    asked = ("--dir", folder / "models", "--cache", folder / "cache")
    return run("models", "compare", *words, *asked)


def test_it_names_what_two_models_disagree_on_and_says_what_that_means(folder: Path) -> None:
    save = folder / "drawn.png"

    done = compare(folder, FIRST, SECOND, folder / "photos", "--save", save)

    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "what they disagree on most"
    assert lines[1].split("\t") == ["picture", "same", "first by phash", "first by colours"]
    picture, same, *firsts = lines[2].split("\t")
    assert same.endswith(" of 10")
    assert {picture, *firsts} <= {path.name for path in (folder / "photos").iterdir()}
    assert "left out: broken.jpg: " in done.stdout
    assert "phash and colours find the same picture first for " in done.stdout
    assert " of 25 pictures, and " in done.stdout
    with Image.open(save) as image:
        assert image.format == "PNG"


def test_files_can_be_named_and_the_result_is_json(folder: Path) -> None:
    photos = sorted((folder / "photos").glob("11-*.jpg"))

    done = compare(folder, FIRST, FIRST.replace("phash", "efficientnet-lite0"), *photos, "--json")

    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["models"] == ["phash", "efficientnet-lite0"]
    assert (result["n_pictures"], result["n_compared"], result["k"]) == (25, 25, 10)
    assert len(result["most_different"]) == 8
    assert result["left_out"] == []


def test_what_cannot_be_compared_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    photos = sorted((folder / "photos").glob("11-*.jpg"))
    for words, told in (
        ((FIRST, FIRST, *photos), "none twice"),
        ((FIRST, "gone", *photos), "no model is named 'gone'"),
        ((FIRST, SECOND, *photos[:2]), "2 pictures can be compared; give three or more"),
        ((FIRST, SECOND, tmp_path), f"there is no picture in {tmp_path}"),
        ((FIRST, SECOND, folder / "photos" / "broken.jpg"), "none of the 1 files could be"),
    ):
        done = compare(folder, *words)
        assert (done.exit_code, "Traceback" in done.output) == (1, False)
        assert told in done.stderr
    for asked in ((FIRST, SECOND), (FIRST, SECOND, *photos, "--save", "drawn.jpg")):
        assert compare(folder, *asked).exit_code == 2
