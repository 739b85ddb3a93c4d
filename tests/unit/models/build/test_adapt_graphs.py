"""Graphs as exporters write them, in the one form; numpy is the judge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.tiny_networks import (
    ANCHOR,
    ANCHORED,
    AS_TOKENS,
    BIAS,
    CONV,
    CONV_WEIGHTS,
    FILTERS,
    FLAT,
    PLAIN,
    POOLED,
    SIDE_PX,
    TOKENS_SHAPE,
    conv_maps,
    embed,
    network,
    node,
    noise,
    unit,
    with_anchor,
)

from twinlens.models.build.adapt import adapt_graph, read_network
from twinlens.shared.errors import ModelError

PLAIN_NHWC = replace(PLAIN, layout="nhwc")


@pytest.mark.parametrize("shape", [[1, -1], [1, 4], [1, -1, 1, 1], [1, 4, 1, 1]])
@pytest.mark.parametrize("is_node", [False, True], ids=["weight", "node"])
def test_an_export_for_one_picture_takes_any_number(shape: list[int], is_node: bool) -> None:
    fixed = np.array(shape, np.int64)
    constant = node("Constant", "", "shape", value=numpy_helper.from_array(fixed))
    model = network(
        [*([constant] if is_node else []), CONV, POOLED, node("Reshape", "pooled shape", "y")],
        inputs={"x": [1, 3, SIDE_PX, SIDE_PX]},
        weights=CONV_WEIGHTS | ({} if is_node else {"shape": fixed}),
    )
    pixels = noise(5, SIDE_PX)

    adapted = adapt_graph(model, PLAIN)

    expected = unit(conv_maps(pixels).mean((2, 3)))
    for batch_size in (1, 5):
        assert embed(adapted, pixels, batch_size) == pytest.approx(expected, abs=1e-6)


def test_an_export_for_four_pictures_takes_any_number() -> None:
    model = network(
        [CONV, POOLED, node("Reshape", "pooled shape", "y", allowzero=1)],
        inputs={"x": [4, 3, SIDE_PX, SIDE_PX]},
        weights=CONV_WEIGHTS | {"shape": np.array([4, -1], np.int64)},
    )
    pixels = noise(5, SIDE_PX)

    embeddings = embed(adapt_graph(model, PLAIN), pixels, 5)

    assert embeddings == pytest.approx(unit(conv_maps(pixels).mean((2, 3))), abs=1e-6)


def test_a_shape_that_is_of_a_weight_stays() -> None:
    model = network(
        [
            CONV,
            POOLED,
            node("Reshape", "pooled shape", "flat"),
            node("Reshape", "bias shape", "row"),
            node("Mul", "flat row", "y"),
        ],
        inputs={"x": [1, 3, SIDE_PX, SIDE_PX]},
        weights=CONV_WEIGHTS | {"shape": np.array([1, -1], np.int64)},
    )
    pixels = noise(5, SIDE_PX)

    embeddings = embed(adapt_graph(model, PLAIN), pixels, 5)

    assert embeddings == pytest.approx(unit(conv_maps(pixels).mean((2, 3)) * BIAS), abs=1e-6)


def test_an_old_graph_with_weights_as_inputs_is_converted() -> None:
    model = network(
        # Softmax of opset 8 takes all after the first axis as one; of opset 13, the last.
        [CONV, node("Softmax", "maps", "shares"), node("Flatten", "shares", "y")],
        inputs={"x": [1, 3, SIDE_PX, SIDE_PX], "filters": [4, 3, 3, 3], "bias": [4]},
        weights=CONV_WEIGHTS,
        opset=8,
        ir_version=3,
    )
    pixels = noise(5, SIDE_PX)

    adapted = adapt_graph(model, replace(PLAIN, scale=0.01))

    # Softmax is exp over a sum that the norm takes out again.
    scaled = (conv_maps(pixels) - BIAS[:, np.newaxis, np.newaxis]) * 0.01
    maps = scaled + BIAS[:, np.newaxis, np.newaxis]
    assert embed(adapted, pixels, 5) == pytest.approx(unit(np.exp(maps)), abs=1e-6)
    written = onnx.load_from_string(adapted.model)
    assert (written.opset_import[0].version, written.ir_version) == (17, 8)
    assert [value.name for value in written.graph.input] == ["images"]


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_a_newer_graph_keeps_its_opset(opset: int) -> None:
    model = network([CONV, POOLED, FLAT], weights=CONV_WEIGHTS, opset=opset, ir_version=10)
    pixels = noise(2, SIDE_PX)

    adapted = adapt_graph(model, PLAIN)

    assert onnx.load_from_string(adapted.model).opset_import[0].version == opset
    expected = unit(conv_maps(pixels).mean((2, 3)))
    assert embed(adapted, pixels, 1) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_channels_are_pooled_where_they_are(pool: Any) -> None:
    pixels = noise(5, SIDE_PX)
    last = node("Transpose", "maps", "maps_last", perm=[0, 2, 3, 1])
    relu = node("Relu", "maps_last", "y")
    model = network([CONV, last, relu], weights=CONV_WEIGHTS)

    adapted = adapt_graph(model, PLAIN, pool=pool)

    maps = np.maximum(conv_maps(pixels), 0)
    expected = unit(maps.max((2, 3)) if pool == "max" else maps.mean((2, 3)))
    assert embed(adapted, pixels, 5) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("opset", [13, 17, 20])
def test_tokens_are_pooled(pool: Any, opset: int) -> None:
    pixels = noise(5, SIDE_PX)
    weights = CONV_WEIGHTS | TOKENS_SHAPE
    model = network([CONV, *AS_TOKENS], outputs=["tokens"], weights=weights, opset=opset)

    adapted = adapt_graph(model, PLAIN, pool=pool)

    tokens = conv_maps(pixels).reshape(5, 4, 36).transpose(0, 2, 1)
    expected = unit(tokens[:, 0] if pool == "cls" else tokens.mean(1))
    for batch_size in (1, 5):
        assert embed(adapted, pixels, batch_size) == pytest.approx(expected, abs=1e-6)
    assert adapted.dimension == 4


def test_maps_of_nhwc_without_any_convolution_are_pooled_as_nhwc() -> None:
    pixels = noise(5, SIDE_PX)
    model = network([node("Relu", "x", "y")], inputs={"x": [0, SIDE_PX, SIDE_PX, 3]})

    # Black alone would have length 0 without the mean.
    adapted = adapt_graph(model, replace(PLAIN_NHWC, mean=(-1.0, -1.0, -1.0)), pool="avg")

    expected = unit((pixels.astype(np.float64) + 1).mean((1, 2)))
    assert embed(adapted, pixels, 5) == pytest.approx(expected, abs=1e-6)


def test_a_network_of_bytes_keeps_its_own_arithmetic() -> None:
    cast = node("Cast", "bytes", "x", to=TensorProto.FLOAT)
    model = network(
        [cast, CONV, POOLED, FLAT],
        inputs={"bytes": ["b", 3, SIDE_PX, SIDE_PX]},
        weights=CONV_WEIGHTS,
        dtype=TensorProto.UINT8,
    )
    pixels = noise(5, SIDE_PX)

    bgr = embed(adapt_graph(model, replace(PLAIN, channels="bgr")), pixels, 5)

    assert bgr == pytest.approx(unit(conv_maps(pixels[..., ::-1]).mean((2, 3))), abs=1e-6)


def test_a_network_of_bytes_in_our_very_layout_is_taken() -> None:
    cast = node("Cast", "bytes", "x", to=TensorProto.FLOAT)
    shape = ["b", SIDE_PX, SIDE_PX, 3]
    model = network(
        [cast, *ANCHORED], inputs={"bytes": shape}, weights=ANCHOR, dtype=TensorProto.UINT8
    )
    pixels = noise(5, SIDE_PX)

    embeddings = embed(adapt_graph(model, PLAIN_NHWC), pixels, 5)

    assert embeddings == pytest.approx(with_anchor(pixels.astype(np.float64), "nhwc"), abs=1e-6)


def test_a_network_of_float16_gives_float32() -> None:
    half = {name: value.astype(np.float16) for name, value in CONV_WEIGHTS.items()}
    model = network([CONV, POOLED, FLAT], weights=half, dtype=TensorProto.FLOAT16)
    pixels = noise(5, SIDE_PX)

    embeddings = embed(adapt_graph(model, replace(PLAIN, scale=1 / 255)), pixels, 5)

    bias = BIAS[:, np.newaxis, np.newaxis]
    expected = unit(((conv_maps(pixels) - bias) / 255 + bias).mean((2, 3)))
    assert embeddings.dtype == np.float32
    # float16 has 11 bits.
    assert embeddings == pytest.approx(expected, abs=2e-3)


def test_a_free_height_and_width_are_set() -> None:
    model = network([CONV, POOLED, FLAT], inputs={"x": ["b", 3, "h", "w"]}, weights=CONV_WEIGHTS)
    pixels = noise(5, 12)

    adapted = adapt_graph(model, PLAIN, size_px=12)

    assert (adapted.input.height, adapted.input.width) == (12, 12)
    expected = unit(conv_maps(pixels).mean((2, 3)))
    assert embed(adapted, pixels, 5) == pytest.approx(expected, abs=1e-6)


def test_height_and_width_may_differ() -> None:
    model = network([CONV, POOLED, FLAT], inputs={"x": [1, 3, 8, 16]}, weights=CONV_WEIGHTS)

    adapted = adapt_graph(model, PLAIN)

    assert (adapted.input.height, adapted.input.width) == (8, 16)


def test_names_like_ours_do_not_clash() -> None:
    inner = helper.make_graph(
        # The branch uses a weight and a tensor of the graph around it.
        [node("Mul", "embedding pixels/constant2", "y")],
        "branch",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = network(
        [
            node("Conv", "images filters head/axes", "embedding", kernel_shape=[3, 3]),
            node("If", "always", "network/images", then_branch=inner, else_branch=inner),
            node("GlobalAveragePool", "network/images", "head/norm"),
            node("Flatten", "head/norm", "head/squares"),
        ],
        inputs={"images": ["N", 3, SIDE_PX, SIDE_PX]},
        outputs=["head/squares"],
        weights={
            "filters": FILTERS,
            "head/axes": BIAS,
            "pixels/constant2": np.array(2, np.float32),
            "always": np.array(True),
        },
    )
    pixels = noise(5, SIDE_PX)

    embeddings = embed(adapt_graph(model, replace(PLAIN, channels="bgr")), pixels, 5)

    expected = unit(conv_maps(pixels[..., ::-1]).mean((2, 3)))
    assert embeddings == pytest.approx(expected, abs=1e-6)


def test_what_the_embedding_does_not_need_is_dropped() -> None:
    noted = node("Flatten", "pooled", "y", doc_string="File /home/someone/secret.py")
    model = network(
        [CONV, POOLED, noted, node("MatMul", "y head", "z"), node("Add", "z words", "scores")],
        inputs={"x": ["b", 3, SIDE_PX, SIDE_PX], "words": ["b", 9]},
        outputs=["scores"],
        weights=CONV_WEIGHTS | {"head": np.ones((4, 9), np.float32)},
    )

    adapted = adapt_graph(model, PLAIN, output="y")

    graph = onnx.load_from_string(adapted.model).graph
    assert [value.name for value in graph.input] == ["images"]
    assert "network/head" not in {tensor.name for tensor in graph.initializer}
    assert b"secret.py" not in adapted.model


def test_functions_and_disorder_are_put_right() -> None:
    average = helper.make_function(
        "custom",
        "Average",
        ["maps"],
        ["y"],
        [node("GlobalAveragePool", "maps", "p"), node("Flatten", "p", "y")],
        [helper.make_opsetid("", 17)],
    )
    model = onnx.load_from_string(
        network([node("Average", "maps", "y", domain="custom"), CONV], weights=CONV_WEIGHTS)
    )
    model.functions.append(average)
    model.opset_import.append(helper.make_opsetid("custom", 1))
    pixels = noise(5, SIDE_PX)

    embeddings = embed(adapt_graph(model.SerializeToString(), PLAIN), pixels, 5)

    assert embeddings == pytest.approx(unit(conv_maps(pixels).mean((2, 3))), abs=1e-6)


def test_the_same_network_gives_the_same_bytes() -> None:
    model = network([CONV, POOLED, FLAT], weights=CONV_WEIGHTS)

    assert adapt_graph(model, PLAIN).model == adapt_graph(model, PLAIN).model


def test_weights_in_other_files_are_taken_in(tmp_path: Path) -> None:
    whole = network([CONV, POOLED, FLAT], weights=CONV_WEIGHTS)
    path = tmp_path / "network.onnx"
    model = onnx.load_from_string(whole)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)

    with pytest.raises(ModelError, match=r"other files.*onnx\.save"):
        adapt_graph(path.read_bytes(), PLAIN)
    pixels = noise(1, SIDE_PX)
    inside = adapt_graph(read_network(path), PLAIN)
    assert (embed(inside, pixels, 1) == embed(adapt_graph(whole, PLAIN), pixels, 1)).all()

    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"network\.onnx cannot be read.*beside it"):
        read_network(path)
