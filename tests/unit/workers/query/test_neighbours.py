"""The order that neighbourhoods give to candidates, where some are being removed just now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from support.small_models import COLOUR_CARD

from twinlens.models.card import Card
from twinlens.models.fusion import FusedEntry
from twinlens.models.rerank import rerank
from twinlens.workers.query.neighbours import order_by_neighbours

if TYPE_CHECKING:
    from twinlens.workers.query.neighbours import Stored

CARDS = {name: Card.model_validate(COLOUR_CARD | {"name": name}) for name in ("one", "two")}
EQUAL = {"one": 0.5, "two": 0.5}
# The query, a crowd on one side of it, and a stray on the other that is second to it.
DEGREES = [0.0, 8.0, -11.0, *np.linspace(12, 17, 11).tolist(), *np.linspace(-15, -20, 11).tolist()]
RADIANS = np.radians(DEGREES)
ROWS = np.stack([np.cos(RADIANS), np.sin(RADIANS)], axis=1).astype(np.float32)
QUERY = dict.fromkeys(CARDS, ROWS[0])


def entries() -> list[FusedEntry]:
    return [FusedEntry(f"{number:02d}", 1.0, {}) for number in range(1, len(ROWS))]


def stored() -> Stored:
    return {name: {f"{n:02d}": ROWS[n] for n in range(1, len(ROWS))} for name in CARDS}


def order(fused: list[FusedEntry]) -> list[int]:
    return [int(one.image_id) for one in fused]


def expected(numbers: list[int]) -> list[int]:
    rows = ROWS[[0, *numbers]]
    return [numbers[place] for place in rerank(np.clip(rows @ rows.T, 0, 1))]


def test_all_that_are_there_are_put_into_order() -> None:
    numbers = list(range(1, len(ROWS)))
    ranking = order(order_by_neighbours(entries(), stored(), QUERY, EQUAL))
    assert ranking == expected(numbers)
    assert ranking != numbers


def test_opposites_under_one_model_count_as_nothing_and_not_as_less() -> None:
    wide = np.stack([np.cos(7 * RADIANS), np.sin(7 * RADIANS)], axis=1).astype(np.float32)
    some = stored() | {"two": {f"{n:02d}": wide[n] for n in range(1, len(wide))}}
    query = {"one": ROWS[0], "two": wide[0]}
    ranking = order(order_by_neighbours(entries(), some, query, EQUAL))
    each = [np.clip(rows @ rows.T, 0, 1) for rows in (ROWS, wide)]
    signed = [rows @ rows.T for rows in (ROWS, wide)]
    assert ranking == [int(place) + 1 for place in rerank(0.5 * each[0] + 0.5 * each[1])]
    assert ranking != [int(place) + 1 for place in rerank(0.5 * signed[0] + 0.5 * signed[1])]


def test_those_whose_embedding_is_gone_under_any_model_come_last() -> None:
    some = stored()
    del some["one"]["04"], some["two"]["01"], some["two"]["20"]
    ranking = order(order_by_neighbours(entries(), some, QUERY, EQUAL))
    there = [n for n in range(1, len(ROWS)) if n not in (1, 4, 20)]
    assert ranking == [*expected(there), 1, 4, 20]


def test_a_model_that_does_not_count_need_not_have_them() -> None:
    some: Stored = {"one": stored()["one"], "two": {}}
    ranking = order(order_by_neighbours(entries(), some, QUERY, {"one": 1.0}))
    assert ranking == expected(list(range(1, len(ROWS))))


def test_where_all_are_gone_the_order_stays() -> None:
    none: Stored = {"one": {}, "two": {}}
    assert order_by_neighbours(entries(), none, QUERY, EQUAL) == entries()
