"""What `models`, `evaluate` and `compare-models` cannot work with is one sentence, and at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.photos import make_photos
from support.tiny_networks import anchored
from support.tiny_pair import text_graph, tokenizer_file

from twinlens.cli.main import main

ADD = ("models", "add", "network.onnx", "--name", "mine")
EXPORT = ("models", "export", "resnet50", "--weights", "random")
QUANTIZE = ("models", "quantize", "efficientnet-lite0@1", "--photos", "photos")
PROJECT = ("models", "project", "efficientnet-lite0@1", "--photos", "photos")
COMPARE = ("compare-models", "photos/7-0000.jpg", "photos")
TOO_LONG = "x" * 300
TWO_LIBRARIES = ("--library", "a", "--library", "b")


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    make_photos(folder / "photos", 12, seed=7)
    (folder / "empty").mkdir()
    (folder / "network.onnx").write_bytes(anchored("nchw"))
    (folder / "text.onnx").write_bytes(text_graph())
    (folder / "tokenizer.json").write_bytes(tokenizer_file())
    (folder / "junk").write_bytes(b"\0junk")
    names = sorted(path.name for path in (folder / "photos").iterdir())
    lines = [f"{name},{place % 3}" for place, name in enumerate(names)]
    (folder / "labels.csv").write_text("\n".join(["file,label", *lines]), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((*ADD, "--name", "a b"), "'a b' cannot be a model's name: give a letter, then"),
        ((*ADD, "--name", ""), "'' cannot be a model's name"),
        ((*ADD, "--name", "x" * 65), "64 characters at most"),
        ((*ADD, "--version", "1.0"), "'1.0' cannot be a model's version: give letters and"),
        ((*ADD, "--version", "1" * 33), "32 characters at most"),
        ((*ADD, "--title", " "), "it is empty: give some words"),
        ((*ADD, "--licence", ""), "it is empty: give some words"),
        ((*ADD, "--source", ""), "it is empty: give some words"),
        ((*ADD, "--text", "photos", "--tokenizer", "tokenizer.json"), "'photos' is a directory"),
        ((*ADD, "--text", "text.onnx", "--tokenizer", "photos"), "'photos' is a directory"),
        ((*ADD, "--resize-to", "1"), "1 is not in the range"),
        ((*ADD, "--crop", "0.5", "--resize-to", "300"), "both say what is cut off: give one"),
        ((*ADD, "--crop", "0.5", "--fit", "squash"), "a squashed picture is kept whole"),
        ((*EXPORT, "--name", "../x"), "'../x' cannot be a model's name"),
        ((*EXPORT, "--version", "v 1"), "'v 1' cannot be a model's version"),
        ((*EXPORT, "--seed", "-1"), "-1 is not in the range"),
        ((*QUANTIZE, "--version", "1.0"), "'1.0' cannot be a model's version"),
        ((*PROJECT, "--dim", "8", "--version", "1.0"), "'1.0' cannot be a model's version"),
        ((*PROJECT, "--dim", "0"), "0 is not in the range"),
        ((*PROJECT, "--dim", "many"), "not a valid integer"),
        ((*COMPARE, "--save", "compared.jpg"), "'compared.jpg' does not end in .png: rename it"),
        ((*COMPARE, "--save", ""), "does not end in .png"),
        ((*COMPARE, "--save", "gone/compared.png"), "there is no folder 'gone': make it first"),
        ((*COMPARE, "--save", "junk/compared.png"), "there is no folder 'junk'"),
        ((*COMPARE, "--save", f"{TOO_LONG}.png"), "cannot be written: File name too long"),
        ((*COMPARE, "--save", "photos"), "is a directory"),
        ((*ADD, "--template", "a photo"), "'a photo' is no template: write {} once"),
        (("evaluate", "labels.csv", "--text", "--apply"), "leave out --text"),
        (("evaluate", "labels.csv", "--text", *TWO_LIBRARIES), "leave out --text"),
        (("evaluate", "labels.csv", "--report", "report.pdf"), "does not end in .html"),
        (("evaluate", "labels.csv", "--report", "gone/report.html"), "there is no folder 'gone'"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_done(
    words: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    directory = tmp_path / "models"
    done = run(*words, "--dir", str(directory))
    assert done.exit_code == 2, done.output
    assert told in done.stderr
    assert not directory.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("search", "junk", "--save", "found.jpg"), "does not end in .png"),
        (("search", "junk", "--save", "gone/found.png"), "there is no folder 'gone'"),
        (("duplicates", "--save", "groups.csv"), "does not end in .json"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_the_service_is_asked(
    words: tuple[str, ...], told: str
) -> None:
    done = run(*words, "--url", "http://127.0.0.1:9")
    assert done.exit_code == 2, done.output
    assert told in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((*ADD, "--name", "phash"), "model phash@1 is there already"),
        ((*ADD, "--name", "efficientnet_lite0"), "model efficientnet-lite0@1 is there already"),
        (("models", "export", "../x", "--weights", "random"), "'../x' cannot be a model's name"),
        ((*EXPORT, "--name", "phash"), "model phash@1 is there already"),
        (("models", "export", "vgg16", "--weights", TOO_LONG), "there is no weights file"),
        (("models", "export", "vgg16", "--weights", "photos"), "there is no weights file"),
        ((*QUANTIZE, "--photos", "empty"), "model efficientnet-lite0@1-int8 is there already"),
        ((*PROJECT, "--photos", "empty", "--dim", "8", "--version", "1"), "is there already"),
        ((*PROJECT, "--dim", "1280"), "pass a dimension from 1 to 1279"),
        ((*PROJECT, "--dim", "12"), "13 pictures are needed at least"),
        (("models", "project", "phash", "--photos", "photos", "--dim", "8"), "gives bits"),
        (("models", "add", "photos/7-0000.jpg", "--name", "x"), "cannot be read as ONNX"),
        ((*ADD, "--preset", "torchvision", "--size", "299"), "does not fit: leave it out"),
        ((*ADD, "--photos", "junk"), "its first line must name file and label too"),
        ((*ADD, "--photos", "empty"), "there is no picture in empty"),
        ((*ADD, "--text", "text.onnx", "--tokenizer", "junk"), "text encoder cannot be opened"),
        (("models", "calibrate", "phash", "network.onnx"), "is not UTF-8 text"),
        (("evaluate", "photos/7-0000.jpg"), "is not UTF-8 text"),
        (("evaluate", "labels.csv", "--models", ","), "no model is named ''"),
        (("evaluate", "labels.csv", "--models", "phash,phash@1"), "none twice"),
        (("compare-models", "network.onnx", "photos"), "no picture type that is served"),
        ((*COMPARE, "--models", "phash"), "give two models or more"),
    ],
)
def test_what_cannot_be_worked_with_is_one_sentence(
    words: tuple[str, ...], told: str, models: Path, tmp_path: Path
) -> None:
    before = sorted(models.iterdir())
    done = run(*words, "--cache", str(tmp_path / "cache"), "--dir", str(models))
    assert done.exit_code == 1, done.output
    assert told in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("twinlens: ")]
    assert sorted(models.iterdir()) == before


@pytest.mark.parametrize("directory", [TOO_LONG, "/proc/models"])
def test_a_directory_of_models_that_cannot_be_made_is_told(directory: str) -> None:
    done = run("models", "list", "--dir", directory)
    assert done.exit_code == 1
    assert "cannot be changed (" in done.stderr
    assert "or name another directory" in done.stderr
