"""Words and pictures in one query, where they lie in different parts of the space."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from support.random_sets import Model

from twinlens.models.calibration import Calibration, calibrate_query, prior_of, score_of
from twinlens.models.distances import Metric
from twinlens.models.words import LEAST_SPREAD, combine_parts, weigh_words

RED, BLUE = np.eye(2, dtype=np.float32)
PRIOR = prior_of(Model(Metric.L2, 6))


def lying(content: NDArray[np.float32], far: float, place: int) -> NDArray[np.float32]:
    """Embeddings of two numbers of content, the farther into a cone of their own the narrower."""
    cone = np.zeros((len(content), 2), np.float32)
    cone[:, place] = far
    rows = np.concatenate([content, cone], axis=1)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def library(n_pictures: int) -> NDArray[np.float32]:
    """Pictures of every mixture of red and blue."""
    angles = np.radians(np.linspace(0, 90, n_pictures))
    content = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    return lying(content, 1.0, 0)


@pytest.mark.parametrize("n_pictures", [31, 301])
def test_a_picture_with_words_finds_what_is_like_both(n_pictures: int) -> None:
    pictures = library(n_pictures)
    [shown], [said] = lying(BLUE[None], 1.0, 0), lying(RED[None], 5.0, 1)

    query = combine_parts([(1.0, shown), (1.0, said)], pictures)

    middle, nearest = n_pictures // 2, int((pictures @ query).argmax())
    assert abs(nearest - middle) <= n_pictures // 15
    # A plain sum hears the words hardly.
    assert int((pictures @ (shown + said)).argmax()) > 3 * n_pictures // 4


def test_words_to_avoid_move_a_query_away_and_not_to_the_opposite() -> None:
    pictures = library(101)
    [red], [blue] = lying(RED[None], 5.0, 1), lying(BLUE[None], 5.0, 1)
    [middle] = lying((RED + BLUE)[None] / np.sqrt(2, dtype=np.float32), 1.0, 0)

    by_avoiding = pictures @ combine_parts([(1.0, middle), (-0.2, blue)], pictures)

    assert 25 < int(by_avoiding.argmax()) < 50
    assert int((pictures @ combine_parts([(1.0, red)], pictures)).argmax()) == 0


def test_words_that_are_as_near_to_all_pictures_change_nothing() -> None:
    pictures, told_of_none = library(101), np.eye(4, dtype=np.float32)[3]
    [shown] = lying((RED + BLUE)[None] / np.sqrt(2, dtype=np.float32), 1.0, 0)

    cosines = pictures @ combine_parts([(1.0, shown), (1.0, told_of_none)], pictures)

    assert int(cosines.argmax()) == 50
    assert cosines.std() > LEAST_SPREAD * (pictures @ shown).std() / 2


def test_without_a_sample_all_parts_count_as_they_are() -> None:
    none = np.empty((0, 2), np.float32)
    # Copies of one picture, but for what rounding does to them.
    copies = np.tile(np.array([0.6, 0.8], np.float32), (99, 1))
    copies[::2, 1] += 1e-7
    for sample in (none, copies):
        assert combine_parts([(1.0, RED), (1.0, BLUE)], sample) == pytest.approx([0.5**0.5] * 2)
    assert combine_parts([(1.0, RED), (-1.0, RED)], none).tolist() == [0, 0]


def test_a_score_of_words_is_the_share_of_pictures_that_are_farther() -> None:
    # Cosines as CLIP has between words and pictures: far below those between pictures.
    cosines = np.random.default_rng(0).normal(0.2, 0.03, 256)

    own = calibrate_query(cosines, PRIOR)

    shares = [(cosines < cosine).mean() for cosine in np.sort(cosines)[::16]]
    assert score_of(own.evidence(np.sort(cosines)[::16])) == pytest.approx(shares, abs=0.1)
    assert PRIOR.score(cosines.max()) < 0.75, "of pictures, none would be near"


def test_words_are_not_judged_by_few_pictures() -> None:
    assert calibrate_query(np.array([0.2]), PRIOR) == PRIOR
    assert isinstance(calibrate_query(np.full(9, 0.2), PRIOR), Calibration)


def test_models_that_understand_words_count_half_at_least() -> None:
    weights = {"clip": 1.0, "lite0": 2.0, "phash": 1.0}
    assert weigh_words(weights, {"clip"}) == pytest.approx(
        {"clip": 1.0, "lite0": 2 / 3, "phash": 1 / 3}
    )
    assert weigh_words(weights, {"clip", "lite0"}) == weights
    assert weigh_words(weights | {"clip": 0.0}, {"clip"}) == weights | {"clip": 0.0}
