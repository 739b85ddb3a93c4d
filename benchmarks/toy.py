"""A network of 16 numbers: colours of a picture's parts, mixed at random."""

from __future__ import annotations

import hashlib

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from twinlens.models.card import Card, Fit, InputSpec, OutputKind, Resample
from twinlens.models.distances import Metric
from twinlens.models.session import INPUT_NAME, OUTPUT_NAME, OnnxEmbedder

SIZE_PX, PART_PX, DIMENSION = 64, 16, 16
N_COLOURS = 3 * (SIZE_PX // PART_PX) ** 2
OPSET = 17


def toy_embedder() -> OnnxEmbedder:
    """Returns the network, opened."""
    model = toy_network()
    card = Card(
        name="toy",
        version="1",
        title="colours mixed at random",
        file="toy.onnx",
        sha256=hashlib.sha256(model).hexdigest(),
        output=OutputKind.FLOAT32,
        dimension=DIMENSION,
        metric=Metric.L2,
        licence="as this file",
        source="benchmarks/toy.py",
        input=InputSpec(width=SIZE_PX, height=SIZE_PX, resample=Resample.BICUBIC, fit=Fit.SQUASH),
    )
    return OnnxEmbedder(card, model)


def toy_network() -> bytes:
    """Returns an ONNX file. A bias keeps black from having no direction."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(N_COLOURS, DIMENSION)).astype(np.float32) / 255.0
    bias = 0.01 * mix.sum(axis=0) * 255.0
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["numbers"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "AveragePool", ["planes"], ["parts"], kernel_shape=[PART_PX] * 2, strides=[PART_PX] * 2
        ),
        helper.make_node("Flatten", ["parts"], ["colours"]),
        helper.make_node("Gemm", ["colours", "mix", "bias"], ["mixed"]),
        helper.make_node("LpNormalization", ["mixed"], [OUTPUT_NAME], axis=1, p=2),
    ]
    pixels: list[str | int | None] = ["N", SIZE_PX, SIZE_PX, 3]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, pixels)],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", DIMENSION])],
        [numpy_helper.from_array(mix, "mix"), numpy_helper.from_array(bias, "bias")],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    content: bytes = helper.make_model(
        graph, opset_imports=opsets, ir_version=8
    ).SerializeToString()
    return content
