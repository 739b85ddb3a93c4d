"""What cannot be rewritten, and what the message says to pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from support.tiny_networks import (
    AS_TOKENS,
    BIAS,
    CONV,
    CONV_WEIGHTS,
    FILTERS,
    FLAT,
    PLAIN,
    POOLED,
    TOKENS_SHAPE,
    network,
    node,
)

from twinlens.models.build.adapt import PRESETS, adapt_graph
from twinlens.models.build.trial import check_embeddings, probe_pictures
from twinlens.models.card import Resizing
from twinlens.shared.errors import ModelError, ModelRefused

CONVOLVED = network([CONV, POOLED, FLAT], weights=CONV_WEIGHTS)
MAPS = network([CONV], outputs=["maps"], weights=CONV_WEIGHTS)


TOKENS = network([CONV, *AS_TOKENS], outputs=["tokens"], weights=CONV_WEIGHTS | TOKENS_SHAPE)


def tiny(*nodes: onnx.NodeProto, **options: Any) -> bytes:
    return network([CONV, *nodes], weights=CONV_WEIGHTS | options.pop("more", {}), **options)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (b"GIF89a", {}, "not ONNX"),
        (b"", {}, "not ONNX"),
        (CONVOLVED, {"output": "pool"}, r"no node .*'pool'.*near it: pooled.*y float.*--output"),
        (CONVOLVED, {"output": "x"}, "no node of the graph gives a tensor 'x'"),
        (tiny(POOLED, FLAT, outputs=["maps", "y"]), {}, r"gives maps .*; y .*--output"),
        (MAPS, {}, r"\['N', 4, 6, 6\].*--pool max or avg"),
        (MAPS, {"pool": "cls"}, r"\['N', 4, 6, 6\].*--pool max or avg"),
        (TOKENS, {}, r"\['N', 36, 4\].*--pool cls, for the first, or mean"),
        (TOKENS, {"pool": "max"}, r"\['N', 36, 4\].*--pool cls, for the first, or mean"),
        (CONVOLVED, {"pool": "mean"}, "leave --pool out"),
        (CONVOLVED, {"pool": "avg"}, "leave --pool out"),
        (CONVOLVED, {"size_px": 9}, "--size 9 does not fit"),
        (
            tiny(POOLED, FLAT, inputs={"x": ["b", 3, "h", "w"]}),
            {"size_px": 9, "resizing": Resizing(resized_px=8)},
            "9 x 9 cannot be cut out of one that is resized to 8 pixels.*--resize-to",
        ),
        (tiny(POOLED, FLAT, inputs={"x": ["b", 3, "h", 8]}), {}, "pass --size"),
        (
            tiny(POOLED, FLAT, inputs={"x": ["b", 3, "h", "w"]}),
            {"size_px": 4},
            "greater than or equal to 8.*--size",
        ),
        (
            tiny(
                POOLED,
                FLAT,
                node("Add", "y m", "z"),
                inputs={"x": ["b", 3, 8, 8], "m": [1, 4]},
                outputs=["z"],
            ),
            {},
            r"made of x float \[b, 3, 8, 8\]; m float \[1, 4\]; one input, a picture.*--output",
        ),
        (
            network([node("Identity", "w", "y")], weights={"w": BIAS}),
            {},
            "'y' is made of nothing; one input",
        ),
        (
            network([node("Flatten", "x", "y")], inputs={"x": ["b", 192]}),
            {},
            r"made of x float \[b, 192\]; a picture is expected.*rank 4",
        ),
        (
            network([node("Flatten", "x", "y")], dtype=TensorProto.INT64),
            {},
            "x int64.*a picture is expected: float, float16 or uint8",
        ),
        (
            network([node("Flatten", "x", "y")], inputs={"x": ["b", 8, 8, 3]}),
            {},
            "3 channels are expected, in layout nchw as dimension 1.*--layout nhwc",
        ),
        (
            network([node("Flatten", "x", "y")], inputs={"x": ["b", 1, 8, 8]}),
            {},
            "3 channels are expected.*colour",
        ),
        (
            network([node("Flatten", "x", "y")], dtype=TensorProto.UINT8),
            {"preprocessing": PRESETS["caffe"].preprocessing},
            "--scale 1 --mean 0,0,0 --std 1,1,1",
        ),
        (
            tiny(node("Reshape", "maps rows", "y"), more={"rows": np.array([0, 4, 6, 6, 1])}),
            {},
            r"\['N', 4, 6, 6, 1\]; \[N, dimension\], .*--output",
        ),
        (
            tiny(POOLED, FLAT, node("ArgMax", "y", "best"), outputs=["best"]),
            {"output": "best"},
            r"'best' is int64 \[1, 4\]; floating numbers",
        ),
        (
            tiny(node("ReduceMean", "maps", "y", keepdims=0)),
            {},
            r"'y' is float32 \[\]; floating numbers",
        ),
        (
            tiny(POOLED, node("MatMul", "pooled wrong", "y"), more={"wrong": FILTERS}),
            {},
            r"onnxruntime cannot run the graph up to 'y' with \[1, 3, 8, 8\].*--size",
        ),
        (
            network([CONV, POOLED, FLAT], weights=CONV_WEIGHTS, opset=99),
            {},
            "onnxruntime cannot run the graph",
        ),
        (
            network(
                [node("Flatten", "x", "flat"), node("MatMul", "flat wide", "y")],
                weights={"wide": np.ones((192, 40_000), np.float32)},
            ),
            {},
            "40000 numbers; at most 32768.*--pool",
        ),
        (
            network([node("Add", "x y", "z"), node("Relu", "z", "y")]),
            {},
            "wait for each other",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_graph_that_cannot_be_rewritten_says_what_to_pass(
    model: bytes, options: dict[str, Any], message: str
) -> None:
    preprocessing = options.get("preprocessing", PLAIN)
    others = {name: value for name, value in options.items() if name != "preprocessing"}
    with pytest.raises(ModelError, match=message):
        adapt_graph(model, preprocessing, **others)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            tiny(
                POOLED,
                node("Flatten", "pooled", "flat"),
                node("ReduceMean", "flat", "mean", axes=[0]),
                node("Sub", "flat mean", "off"),
                node("Add", "off bias", "y"),
            ),
            "depends on the other pictures of its batch: it is .* at most 0.0001 is expected",
        ),
        (
            tiny(
                POOLED,
                node("Flatten", "pooled", "flat"),
                node("Concat", "token flat", "y", axis=1),
                inputs={"x": [1, 3, 8, 8]},
                more={"token": BIAS[np.newaxis]},
            ),
            "does not run on a batch of 5.*free batch dimension",
        ),
        (
            tiny(POOLED, node("Reshape", "pooled row", "y"), more={"row": np.array([1, -1])}),
            r"makes 1 embedding\(s\) of a batch of 5.*free batch dimension",
        ),
        (
            tiny(
                POOLED,
                FLAT,
                node("Mul", "y none", "zero"),
                node("Add", "zero bias", "z"),
                outputs=["z"],
                more={"none": np.zeros(4, np.float32)},
            ),
            "the same whatever the picture: of 5 that are not alike",
        ),
        (network([node("Flatten", "x", "y")]), "picture of black has length 0, and 1.*--mean"),
        (
            network([node("Flatten", "x", "flat"), node("Log", "flat", "y")]),
            "picture of black has length nan, and 1 is expected",
        ),
    ],
    ids=[
        "mixes",
        "wants one picture",
        "folds a batch",
        "ignores it",
        "black is nothing",
        "black is infinite",
    ],
)
def test_a_graph_that_was_rewritten_and_is_wrong_is_refused(model: bytes, message: str) -> None:
    with pytest.raises(ModelRefused, match=message):
        adapt_graph(model, PLAIN)


def test_a_batch_that_mixes_in_eight_bits_is_refused() -> None:
    # One scale for all pictures of a batch: what onnxruntime's dynamic quantisation does.
    model = tiny(
        node("DynamicQuantizeLinear", "maps", "bytes scale zero"),
        node("DequantizeLinear", "bytes scale zero", "coarse"),
        node("GlobalAveragePool", "coarse", "pooled"),
        FLAT,
    )
    with pytest.raises(ModelRefused, match="depends on the other pictures"):
        adapt_graph(model, PLAIN)


def test_an_old_graph_that_cannot_be_converted_says_which_opset_to_export() -> None:
    # An operator that onnxruntime knows and onnx never had; Core ML's converter wrote it.
    scaler = node("ImageScaler", "x", "y", scale=1.0, bias=[1.0, 1.0, 1.0])

    with pytest.raises(ModelError, match=r"opset 7, at least 13 is needed.*opset 17"):
        adapt_graph(network([scaler], opset=7), PLAIN, pool="avg")


def test_an_old_graph_that_is_converted_wrongly_is_refused() -> None:
    # Before opset 13 Hardmax took all after its axis as one, which onnx 1.23 does not convert.
    model = tiny(node("Hardmax", "maps", "one", axis=1), node("Flatten", "one", "y"), opset=9)

    with pytest.raises(ModelRefused, match=r"away from the network's own.*later opset"):
        adapt_graph(model, PLAIN)


def test_a_rewritten_graph_that_is_not_valid_is_refused() -> None:
    adapted = adapt_graph(CONVOLVED, PLAIN)
    pictures = probe_pictures(adapted.input)

    with pytest.raises(ModelError, match="the rewritten graph is not valid"):
        check_embeddings(adapted.model[:-9], pictures, np.ones(4), 1e-4)
