"""What clients are told about a model."""

from __future__ import annotations

from support.small_models import COLOUR_CARD

from twinlens.models.card import Card
from twinlens.workers.process.runtime import summary_of


def test_a_summary_tells_how_pictures_are_resized_where_the_card_does() -> None:
    plain = Card.model_validate(COLOUR_CARD)
    cut_out = {"width": 8, "height": 8, "fit": "crop", "resized_px": 10}

    told = summary_of(plain).input
    told_more = summary_of(Card.model_validate(COLOUR_CARD | {"input": cut_out})).input

    assert "resized_px" not in told
    assert told_more["resized_px"] == 10
    assert (told_more["width"], told_more["fit"]) == (8, "crop")
