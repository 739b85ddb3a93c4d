"""Text encoders: the same space as the pictures', and refused where they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.tiny_pair import (
    COLOURS,
    pair_card,
    picture_graph,
    plain_picture,
    text_graph,
    tokenizer_file,
)

from twinlens.models.pictures import open_picture
from twinlens.models.registry import Registry
from twinlens.models.text import TextEncoder
from twinlens.shared.errors import BadEmbedding, ModelNotFound, ModelRefused


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path)
    registry.add(pair_card(), picture_graph(), (text_graph(), tokenizer_file()))
    return registry


def test_a_word_is_nearest_to_its_picture(registry: Registry) -> None:
    pictures, words = registry.open("colours"), registry.open_text("colours@1")
    spec = pictures.card.input
    pixels = [open_picture(plain_picture(name)).pixels_for(spec) for name in COLOURS]
    embeddings = pictures.embed_batch(np.stack(pixels))
    for number, colour in enumerate(COLOURS):
        row = words.encode(f"a {colour} thing")
        assert np.linalg.norm(row) == pytest.approx(1, abs=1e-6)
        assert int((embeddings @ row).argmax()) == number


def test_a_long_text_is_cut(registry: Registry) -> None:
    words = registry.open_text("colours")
    first = words.encode("red " * 8)
    assert words.encode("red " * 8 + "green " * 100) == pytest.approx(first)


def test_a_text_without_a_known_word_is_refused(registry: Registry) -> None:
    with pytest.raises(BadEmbedding, match="no finite vector"):
        registry.open_text("colours").encode("nonsense")


def test_what_templates_make_of_words_is_averaged() -> None:
    def encode(*templates: str) -> NDArray[np.float32]:
        card = pair_card()
        assert card.text is not None
        text = card.text.model_copy(update={"templates": templates})
        card = card.model_copy(update={"text": text})
        return TextEncoder(card, text_graph(), tokenizer_file()).encode("red")

    assert encode("{}", "{} green") == pytest.approx(unit([1 + 0.5**0.5, 0.5**0.5, 0]))
    # Each counts the same, however long what the network gives is.
    assert encode("{}", "green green green {}") == pytest.approx(unit([1 + 0.1**0.5, 0.9**0.5, 0]))
    assert encode("a photo of {}") == pytest.approx(encode("{}"))


def unit(numbers: list[float]) -> NDArray[np.float64]:
    return np.asarray(np.array(numbers) / np.linalg.norm(numbers))


def test_a_changed_tokenizer_is_refused(registry: Registry, tmp_path: Path) -> None:
    with (tmp_path / "colours@1.tokenizer.json").open("ab") as stream:
        stream.write(b"\n")
    with pytest.raises(ModelRefused, match="SHA-256"):
        registry.open_text("colours")


def test_a_model_without_a_text_encoder_says_so(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.add(pair_card().model_copy(update={"text": None}), picture_graph())
    with pytest.raises(ModelNotFound, match="has no text encoder"):
        registry.open_text("colours")


@pytest.mark.parametrize(
    ("graph", "tokenizer", "words"),
    [
        (text_graph(5), tokenizer_file(), "not of one space"),
        (b"junk", tokenizer_file(), "cannot be opened"),
        (text_graph(), b"junk", "cannot be opened"),
        (picture_graph(), tokenizer_file(), "must take input_ids"),
    ],
)
def test_an_encoder_that_does_not_fit_is_not_added(
    tmp_path: Path, graph: bytes, tokenizer: bytes, words: str
) -> None:
    registry = Registry(tmp_path)
    with pytest.raises(ModelRefused, match=words):
        registry.add(pair_card(), picture_graph(), (graph, tokenizer))
    assert registry.cards() == []


def test_an_output_that_is_not_there_is_named() -> None:
    card = pair_card()
    assert card.text is not None
    text = card.text.model_copy(update={"output": "pooled"})
    with pytest.raises(ModelRefused, match="'pooled', which its card names"):
        TextEncoder(card.model_copy(update={"text": text}), text_graph(), tokenizer_file())
