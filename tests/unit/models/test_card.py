"""Cards: what is read, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from twinlens.models.card import Fit, InputSpec, OutputKind, dump_card, load_card
from twinlens.models.cards import SHIPPED_CARDS
from twinlens.models.distances import Metric
from twinlens.shared.errors import BadCard

CARD = """
name = "a-model"
version = "1"
title = "A model"
file = "a-model-1.onnx"
sha256 = "{sha256}"
output = "float32"
dimension = 4
metric = "L2"
licence = "MIT"
source = "here"

[input]
width = 32
height = 24
""".format(sha256="0" * 64)


CALIBRATION = """
[calibration]
cosines = [0.0, 0.1, 0.2, 0.4, 0.6]
exponent = 8
"""

TEXT = """
[text]
file = "a.onnx"
sha256 = "{sha256}"
tokenizer = "a.json"
tokenizer_sha256 = "{sha256}"
""".format(sha256="0" * 64)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "a-model.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_card_is_read_with_its_defaults(tmp_path: Path) -> None:
    card = load_card(write(tmp_path, CARD))

    assert (card.metric, card.output, card.weight) == (Metric.L2, OutputKind.FLOAT32, 1.0)
    assert card.input == InputSpec(width=32, height=24, fit=Fit.SQUASH)
    assert card.key == "a_model__1"
    assert card.min_cosine == 0.9999


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "a-model"', 'name = "a model"', "name"),
        ('name = "a-model"', 'name = "a--model"', "name"),
        ('name = "a-model"', 'name = "a\\n"', "name"),
        ('version = "1"', 'version = "1.0"', "version"),
        ('version = "1"', "version = 1", "version"),
        ('file = "a-model-1.onnx"', 'file = "../x.onnx"', "file"),
        ('file = "a-model-1.onnx"', 'file = "/x.onnx"', "file"),
        ('metric = "L2"', 'metric = "HAMMING"', "HAMMING is the metric of bits"),
        ('output = "float32"', 'output = "bits"', "HAMMING is the metric of bits"),
        ('metric = "L2"', 'metric = "euclid"', "metric"),
        ("dimension = 4", "dimension = 0", "dimension"),
        ("width = 32", "width = 32\ncrop_fraction = 0.5", "crop_fraction is for fit = 'crop'"),
        (
            "width = 32",
            'width = 32\nfit = "crop"\ncrop_fraction = 0.5\nresized_px = 40',
            "both say what is cut off: give one",
        ),
        ("width = 32", "width = 32\nresized_px = 31", "32 x 24 cannot be cut out of one that is"),
        ("width = 32", "width = 32\ncolour = 1", "input.colour"),
        ('licence = "MIT"', "", "licence: Field required"),
        ('licence = "MIT"', 'licence = "MIT"\nlicense = "MIT"', "license"),
        ('licence = "MIT"', 'licence = "MIT"\nweight = inf', "weight"),
        ('title = "A model"', "title = ", "is not TOML"),
        ("height = 24", f"height = 24\n{CALIBRATION.replace('0.6', '0.1')}", "cosines must rise"),
        ("height = 24", f"height = 24\n{CALIBRATION}shape = 1", "calibration.shape"),
        ("height = 24", f"height = 24\n{TEXT}templates = []", "text.templates"),
        ("height = 24", f"height = 24\n{TEXT}templates = ['a photo']", "is no template: write {}"),
        ("height = 24", f"height = 24\n{TEXT}templates = ['{{}} or {{}}']", "is no template"),
        ("height = 24", f"height = 24\n{TEXT}templates = ['{{}}{'a' * 200}']", "200 characters"),
    ],
)
def test_a_bad_field_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in CARD

    with pytest.raises(BadCard) as refused:
        load_card(write(tmp_path, CARD.replace(old, new)))

    assert words in refused.value.detail
    assert "a-model.toml" in refused.value.detail


def test_bits_come_in_bytes(tmp_path: Path) -> None:
    text = CARD.replace('"float32"', '"bits"').replace('"L2"', '"HAMMING"')

    with pytest.raises(BadCard, match="multiple of 8"):
        load_card(write(tmp_path, text))
    text = text.replace("dimension = 4", "dimension = 8") + TEXT
    with pytest.raises(BadCard, match="a text encoder gives numbers"):
        load_card(write(tmp_path, text))


def test_a_missing_or_binary_card_is_a_bad_card(tmp_path: Path) -> None:
    binary = tmp_path / "b.toml"
    binary.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(BadCard, match="cannot be read"):
        load_card(tmp_path / "none.toml")
    with pytest.raises(BadCard, match="not UTF-8"):
        load_card(binary)


def test_a_card_may_say_how_far_apart_unrelated_pictures_are(tmp_path: Path) -> None:
    card = load_card(write(tmp_path, CARD + CALIBRATION))

    assert card.calibration is not None
    assert card.calibration.cosines == (0.0, 0.1, 0.2, 0.4, 0.6)
    assert load_card(write(tmp_path, dump_card(card))) == card
    assert load_card(write(tmp_path, CARD)).calibration is None


def test_the_crop_needs_a_larger_picture() -> None:
    spec = InputSpec(width=224, height=224, fit=Fit.CROP, crop_fraction=0.875)

    assert spec.wanted_px == 256
    resized = InputSpec(width=224, height=224, fit=Fit.CROP, resized_px=232)
    assert resized.wanted_px == 232
    # By the longer side, and never a part of a pixel too small.
    wide = InputSpec(width=300, height=100, fit=Fit.CROP, crop_fraction=0.7)
    assert wide.wanted_px == 429


@pytest.mark.parametrize(
    ("metric", "sign"),
    [(Metric.L2, 1.0), (Metric.HAMMING, 1.0), (Metric.IP, -1.0), (Metric.COSINE, -1.0)],
)
def test_of_products_more_is_nearer_and_of_distances_less(metric: Metric, sign: float) -> None:
    assert metric.sign == sign


def test_a_card_that_is_written_is_read_as_it_was(tmp_path: Path) -> None:
    for path in SHIPPED_CARDS.glob("*.toml"):
        card = load_card(path)
        assert load_card(write(tmp_path, dump_card(card))) == card


def test_the_shipped_cards_are_of_three_models_and_say_whose_they_are() -> None:
    cards = {path.stem: load_card(path) for path in SHIPPED_CARDS.glob("*.toml")}

    assert {card.name for card in cards.values()} == {
        "efficientnet-lite0",
        "efficientnet-lite2",
        "phash",
    }
    for stem, card in cards.items():
        assert (card.ref, card.file) == (stem, f"{stem}.onnx")
        assert len(card.golden) == 2
    assert cards["phash@1"].weight == 0.0
