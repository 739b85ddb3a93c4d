"""How far a model's answers may be from those on its card, and how sessions are opened."""

from __future__ import annotations

import shutil
from math import acos
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.small_models import COLOUR_CARD

from twinlens.models.bits import signs_of
from twinlens.models.card import Card, Golden
from twinlens.models.cards import SHIPPED_CARDS
from twinlens.models.session import (
    CPU_PROVIDERS,
    default_batch_size,
    is_cpu,
    session_options,
)
from twinlens.models.verify import check_golden, encode_embedding, make_golden
from twinlens.shared.errors import ModelRefused

if TYPE_CHECKING:
    from pathlib import Path

    from twinlens.models.session import Embeddings, Pixels

HASH = {"output": "bits", "metric": "HAMMING", "dimension": 64}


class Says:
    """A model that gives one embedding, whatever it is shown."""

    def __init__(self, card: Card, row: Any) -> None:
        self.card, self.row = card, np.asarray(row, np.uint8 if card.dimension == 64 else None)

    def embed_batch(self, pixels: Pixels) -> Embeddings:
        return np.repeat(self.row[np.newaxis], len(pixels), axis=0)


def card_of(known: Any, **changes: Any) -> Card:
    card = Card.model_validate(COLOUR_CARD | {"dimension": 2} | changes)
    text = encode_embedding(card, np.asarray(known, np.uint8 if changes else np.float32))
    return card.model_copy(update={"golden": (Golden(picture="chelsea.png", embedding=text),)})


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(SHIPPED_CARDS / "golden", folder / "golden")
    return folder


@pytest.mark.parametrize(
    ("cosine", "length", "is_right"),
    [
        (1.0, 1.0, True),
        (0.99995, 1.0, True),
        (0.99985, 1.0, False),
        (-1.0, 1.0, False),
        # Nearly of length 1 will do, for float16 loses as much.
        (1.0, 1.0005, True),
        (1.0, 1.002, False),
        (1.0, 0.998, False),
        (1.0, float("nan"), False),
    ],
)
def test_an_embedding_may_be_this_far_from_the_cards(
    directory: Path, cosine: float, length: float, is_right: bool
) -> None:
    card = card_of([1.0, 0.0])
    angle = acos(cosine)
    model = Says(card, [length * np.cos(angle), length * np.sin(angle)])
    if is_right:
        check_golden(model, directory)
        return
    with pytest.raises(ModelRefused, match=r"chelsea\.png gives an embedding"):
        check_golden(model, directory)


@pytest.mark.parametrize(("n_bits", "is_right"), [(0, True), (1, True), (2, False), (64, False)])
def test_a_hash_may_be_this_far_from_the_cards(
    directory: Path, n_bits: int, is_right: bool
) -> None:
    # Of 64 bits, one that differs takes 1/32 off the cosine.
    card = card_of(np.zeros(8), **HASH).model_copy(update={"min_cosine": 0.95})
    model = Says(card, np.packbits(np.arange(64) < n_bits))
    if is_right:
        check_golden(model, directory)
        return
    with pytest.raises(ModelRefused):
        check_golden(model, directory)


def test_every_golden_picture_is_checked(directory: Path) -> None:
    card = card_of([1.0, 0.0])
    wrong = Golden(picture="coffee.png", embedding=encode_embedding(card, np.array([0.0, 1.0])))
    card = card.model_copy(update={"golden": (*card.golden, wrong)})
    with pytest.raises(ModelRefused, match=r"coffee\.png"):
        check_golden(Says(card, [1.0, 0.0]), directory)


def test_known_answers_are_made_of_every_golden_picture(directory: Path) -> None:
    model = Says(card_of([1.0, 0.0]), [1.0, 0.0])
    made = make_golden(model, directory)
    assert [one.picture for one in made] == ["chelsea.png", "coffee.png"]
    assert {one.embedding for one in made} == {model.card.golden[0].embedding}


def test_a_session_has_one_thread_that_does_not_spin() -> None:
    options = session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    for kind in ("intra_op", "inter_op"):
        assert options.get_session_config_entry(f"session.{kind}.allow_spinning") == "0"


def test_pictures_go_one_by_one_through_a_processor_and_together_through_a_card() -> None:
    gpu = ("CUDAExecutionProvider", *CPU_PROVIDERS)
    assert (is_cpu(CPU_PROVIDERS), is_cpu(gpu), is_cpu(())) == (True, False, False)
    assert (default_batch_size(CPU_PROVIDERS), default_batch_size(gpu)) == (1, 32)


def test_set_bits_are_plus_one_and_the_highest_comes_first() -> None:
    signs = signs_of(np.array([[0b10000001, 0], [255, 1]], np.uint8))
    assert signs.dtype == np.float32
    assert signs[0].tolist() == [1, *[-1] * 6, 1, *[-1] * 8]
    assert signs[1].tolist() == [1] * 8 + [-1] * 7 + [1]
