"""Networks of a node or two, and their answers in numpy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from twinlens.models.build.adapt import Adapted
from twinlens.models.build.presets import Preprocessing
from twinlens.models.card import Card, OutputKind
from twinlens.models.distances import Metric
from twinlens.models.session import OnnxEmbedder

PLAIN = Preprocessing("nchw", "rgb", 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
SIDE_PX = 8

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


def embed(adapted: Adapted, pixels: Pixels, batch_size: int) -> Floats:
    """Through the session that a worker uses, which checks inputs and outputs."""
    card = Card(
        name="adapted",
        version="1",
        title="Adapted",
        file="adapted.onnx",
        sha256="0" * 64,
        output=OutputKind.FLOAT32,
        dimension=adapted.dimension,
        metric=Metric.L2,
        licence="none",
        source="this test",
        input=adapted.input,
    )
    embeddings = OnnxEmbedder(card, adapted.model, batch_size=batch_size).embed_batch(pixels)
    return np.asarray(embeddings, np.float32)


def run(model: bytes, output: str, values: NDArray[Any]) -> Floats:
    """Runs the network as it came, `output` made one of its outputs, picture by picture."""
    exposed = onnx.load_from_string(model)
    del exposed.graph.output[:]
    exposed.graph.output.append(onnx.ValueInfoProto(name=output))
    session = ort.InferenceSession(exposed.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: one[np.newaxis]})[0] for one in values])


def unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    rows = vectors.reshape(len(vectors), -1).astype(np.float64)
    divided: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return divided


def noise(n: int, side_px: int, seed: int = 1) -> Pixels:
    """Pictures that differ in more than noise: each has colours of its own."""
    rng = np.random.default_rng(seed)
    dark, bright = rng.integers(0, 100, (n, 1, 1, 3)), rng.integers(150, 256, (n, 1, 1, 3))
    return rng.integers(dark, bright, (n, side_px, side_px, 3)).astype(np.uint8)


def network(
    nodes: Iterable[onnx.NodeProto],
    *,
    inputs: dict[str, list[Any]] | None = None,
    outputs: Iterable[str] = ("y",),
    weights: dict[str, NDArray[Any]] | None = None,
    dtype: int = TensorProto.FLOAT,
    opset: int = 17,
    **model: Any,
) -> bytes:
    shapes: dict[str, list[Any]] = {"x": ["b", 3, SIDE_PX, SIDE_PX]} if inputs is None else inputs
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset)]
    made = helper.make_model(graph, opset_imports=imports, **{"ir_version": 8, **model})
    content: bytes = made.SerializeToString()
    return content


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


FILTERS = np.random.default_rng(0).normal(0, 0.1, (4, 3, 3, 3)).astype(np.float32)
BIAS = np.array([1, 2, 3, 4], np.float32)
CONV = node("Conv", "x filters bias", "maps", kernel_shape=[3, 3])
CONV_WEIGHTS = {"filters": FILTERS, "bias": BIAS}
POOLED = node("GlobalAveragePool", "maps", "pooled")
FLAT = node("Flatten", "pooled", "y")


# The places of the maps as tokens, [n, 36, 4].
AS_TOKENS = (
    node("Reshape", "maps rows", "row_tokens"),
    node("Transpose", "row_tokens", "tokens", perm=[0, 2, 1]),
)
TOKENS_SHAPE: dict[str, NDArray[Any]] = {"rows": np.array([0, 4, -1], np.int64)}


def conv_maps(pixels: Pixels) -> NDArray[np.float64]:
    """What CONV gives: [n, 4, 6, 6], in numpy."""
    windows = np.lib.stride_tricks.sliding_window_view(
        pixels.astype(np.float64).transpose(0, 3, 1, 2), (3, 3), axis=(2, 3)
    )
    summed: NDArray[np.float64] = np.einsum("ncyxij,ocij->noyx", windows, FILTERS)
    return summed + BIAS[:, np.newaxis, np.newaxis]


# A last number that is 1 whatever the picture: so the norm hides no factor.
ANCHORED = (
    node("Flatten", "x", "flat"),
    node("Pad", "flat pads one", "y"),
)
ANCHOR: dict[str, NDArray[Any]] = {
    "pads": np.array([0, 0, 0, 1], np.int64),
    "one": np.array(1, np.float32),
}


def anchored(layout: str) -> bytes:
    shape = ["b", 3, SIDE_PX, SIDE_PX] if layout == "nchw" else ["b", SIDE_PX, SIDE_PX, 3]
    return network(ANCHORED, inputs={"x": shape}, weights=ANCHOR)


def with_anchor(values: NDArray[np.float64], layout: str) -> NDArray[np.float64]:
    """[n, height, width, 3] in the network's order of channels, to what ANCHORED makes of it."""
    ordered = values.transpose(0, 3, 1, 2) if layout == "nchw" else values
    return unit(np.pad(ordered.reshape(len(values), -1), ((0, 0), (0, 1)), constant_values=1.0))
