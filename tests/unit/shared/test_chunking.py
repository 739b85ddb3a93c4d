from __future__ import annotations

import pytest

from twinlens.shared.chunking import chunk_items
from twinlens.shared.settings import Settings


@pytest.mark.parametrize(
    ("cost_s", "n_pictures"),
    [
        (None, 32),
        (0.0, 32),
        (0.5 / 40, 40),
        (0.5 / 40.4, 40),
        (0.5 / 40.6, 41),
        (0.5 / 64, 64),
        (0.5 / 65, 64),
        (1e-9, 64),
        (0.5 / 16, 16),
        (0.5 / 15, 16),
        (60.0, 16),
    ],
)
def test_a_chunk_takes_half_a_second_within_bounds(cost_s: float | None, n_pictures: int) -> None:
    assert chunk_items(Settings(chunk_items=None), cost_s) == n_pictures


@pytest.mark.parametrize("n_pictures", [1, 256])
def test_a_setting_says_how_many_pictures_are_a_chunk(n_pictures: int) -> None:
    for cost_s in (None, 1e-9, 0.02, 60.0):
        assert chunk_items(Settings(chunk_items=n_pictures), cost_s) == n_pictures


@pytest.mark.parametrize(("setting", "n_pictures"), [(None, 256), (7, 7)])
def test_more_pictures_are_a_chunk_where_none_is_decoded(
    setting: int | None, n_pictures: int
) -> None:
    assert chunk_items(Settings(chunk_items=setting), 60.0, are_decoded=False) == n_pictures
