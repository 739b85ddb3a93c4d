"""The arithmetic on pixels inside a graph is that of the formula, whatever its numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.tiny_networks import PLAIN, SIDE_PX, anchored, embed, noise, unit, with_anchor

from twinlens.models.build.adapt import PRESETS, Preprocessing, adapt_graph
from twinlens.shared.errors import ModelError


def factors(largest: float) -> st.SearchStrategy[float]:
    return st.floats(0.01, largest) | st.floats(-largest, -0.01)


@given(
    layout=st.sampled_from(["nchw", "nhwc"]),
    channels=st.sampled_from(["rgb", "bgr"]),
    scale=factors(4.0) | st.just(1.0),
    mean=st.tuples(*[st.floats(-300, 300)] * 3) | st.just((0.0, 0.0, 0.0)),
    std=st.tuples(*[factors(300.0)] * 3) | st.just((1.0, 1.0, 1.0)),
    seed=st.integers(0, 1000),
)
def test_the_graph_does_the_arithmetic_of_the_formula(
    layout: Any,
    channels: Any,
    scale: float,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    seed: int,
) -> None:
    pixels = noise(5, SIDE_PX, seed)
    adapted = adapt_graph(anchored(layout), Preprocessing(layout, channels, scale, mean, std))

    in_order = pixels[..., [2, 1, 0]] if channels == "bgr" else pixels
    expected = with_anchor((in_order.astype(np.float64) * scale - mean) / std, layout)

    assert adapted.dimension == 3 * SIDE_PX * SIDE_PX + 1
    for batch_size in (1, 5):
        assert embed(adapted, pixels, batch_size) == pytest.approx(expected, abs=1e-6)


# As their sources write them, not as we do.
FORMULAS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "torchvision": lambda rgb: (rgb / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    "caffe": lambda rgb: rgb[..., ::-1] - [104, 117, 123],
    "tf": lambda rgb: rgb / 127.5 - 1,
    "keras-caffe": lambda rgb: rgb[..., ::-1] - [103.939, 116.779, 123.68],
    "keras-torch": lambda rgb: (rgb / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_its_framework_does(name: str) -> None:
    pixels = noise(5, SIDE_PX)
    layout = "nchw" if name in ("torchvision", "caffe") else "nhwc"

    adapted = adapt_graph(anchored(layout), PRESETS[name].preprocessing)

    expected = with_anchor(FORMULAS[name](pixels.astype(np.float64)), layout)
    assert embed(adapted, pixels, 5) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_numpy_and_the_graph_do_the_same(name: str) -> None:
    pixels = noise(2, SIDE_PX)
    preprocessing = PRESETS[name].preprocessing
    values = preprocessing.apply(pixels)

    assert values.dtype == np.float32
    in_numpy = np.pad(values.reshape(2, -1), ((0, 0), (0, 1)), constant_values=1.0)
    adapted = adapt_graph(anchored(preprocessing.layout), preprocessing)
    assert embed(adapted, pixels, 1) == pytest.approx(unit(in_numpy), abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": (1.0, 0.0, 1.0)}, "std not 0"),
        ({"scale": 0.0}, "--scale"),
        ({"mean": (float("nan"), 0.0, 0.0)}, "finite"),
        ({"mean": (0.0, 0.0)}, "three numbers"),
        ({"layout": "chwn"}, "--layout nchw or nhwc"),
        ({"channels": "grb"}, "--channels rgb or bgr"),
    ],
)
def test_arithmetic_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        replace(PLAIN, **change)
