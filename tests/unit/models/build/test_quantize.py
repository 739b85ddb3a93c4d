"""int8 models: near the float ones, the same everywhere, and what is refused."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from PIL import Image

from twinlens.models.build.lite import LITE0, LITE2, build_lite
from twinlens.models.build.phash import build_phash
from twinlens.models.build.quantize import measure_ranges, quantize_model
from twinlens.models.cards import SHIPPED_CARDS
from twinlens.models.workbench.project import project_model
from twinlens.shared.errors import ModelError

SIDE_PX = 12
VARIANTS = {variant.name: variant for variant in (LITE0, LITE2)}


class Network:
    """A small network that has every kind of layer; its float twin is the reference."""

    def __init__(self, opset: int = 17) -> None:
        self._opset = opset
        self._rng = np.random.default_rng(0)
        self._nodes: list[Any] = []
        self._weights = [numpy_helper.from_array(np.array(128, np.float32), "scale")]
        self._tensor = self._add("Cast", ["images"], "pixels", to=TensorProto.FLOAT)
        self._tensor = self._add("Div", ["pixels", "scale"], "scaled")
        self._tensor = self._add("Transpose", ["scaled"], "first", perm=[0, 3, 1, 2])

    def conv(self, name: str, shape: list[int], group: int = 1, activation: str = "Relu") -> str:
        weight = self._weight(f"{name}.weight", shape)
        bias = self._weight(f"{name}.bias", shape[:1])
        pads = [shape[2] // 2] * 4
        inputs = [self._tensor, weight, bias]
        self._tensor = self._add("Conv", inputs, name, group=group, pads=pads)
        if activation:
            self._tensor = self._add(activation, [name], f"{name}.out")
        return self._tensor

    def batch_norm(self, name: str, n_channels: int) -> None:
        parts = [self._weight(f"{name}.{part}", [n_channels]) for part in "abc"]
        spread = self._weight(f"{name}.spread", [n_channels], positive=True)
        self._tensor = self._add("BatchNormalization", [self._tensor, *parts, spread], name)

    def add(self, first: str, second: str, name: str) -> str:
        self._tensor = self._add("Add", [first, second], name)
        return self._tensor

    def pool(self) -> None:
        self._tensor = self._add("GlobalAveragePool", [self._tensor], "pooled_maps")
        self._tensor = self._add("Flatten", [self._tensor], "pooled")

    def dense(
        self, name: str, kind: str, shape: list[int], bias: str = "", **attributes: Any
    ) -> None:
        inputs = [self._tensor, self._weight(f"{name}.weight", shape), *filter(None, [bias])]
        self._tensor = self._add(kind, inputs, name, **attributes)

    def finish(self, dimension: int) -> bytes:
        self._add("LpNormalization", [self._tensor], "embedding", axis=1, p=2)
        shape: list[str | int | None] = ["N", SIDE_PX, SIDE_PX, 3]
        images = helper.make_tensor_value_info("images", TensorProto.UINT8, shape)
        output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", dimension])
        graph = helper.make_graph(self._nodes, "small", [images], [output], self._weights)
        opsets = [helper.make_opsetid("", self._opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        content: bytes = model.SerializeToString()
        return content

    def _add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        # Without a name: ONNX asks for none.
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _weight(self, name: str, shape: list[int], *, positive: bool = False) -> str:
        values = self._rng.standard_normal(shape)
        values /= np.sqrt(np.prod(shape[1:]))
        if positive:
            values = np.abs(values) + 0.5
        self._weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name


def make_network(opset: int = 17, *, has_batch_norm: bool = False) -> bytes:
    network = Network(opset)
    network.conv("stem", [16, 3, 3, 3])
    network.conv("depthwise", [16, 1, 3, 3], group=16)
    shortcut = network.conv("pointwise", [24, 16, 1, 1], activation="")
    network.conv("square", [24, 24, 3, 3], activation="" if has_batch_norm else "Relu")
    if has_batch_norm:
        network.batch_norm("norm", 24)
    inner = network.conv("grouped", [24, 6, 3, 3], group=4, activation="")
    network.add(shortcut, inner, "sum")
    network.conv("head", [40, 24, 1, 1])
    network.pool()
    network.dense("gemm", "Gemm", [32, 40], transB=1)
    network.dense("matmul", "MatMul", [32, 20])
    return network.finish(20)


def noise(n_pictures: int, seed: int = 0) -> NDArray[np.uint8]:
    """Pictures of 9 patches each: finer noise would be one and the same to a pooling network."""
    patches = np.random.default_rng(seed).integers(0, 256, (n_pictures, 3, 3, 3), np.uint8)
    return patches.repeat(SIDE_PX // 3, axis=1).repeat(SIDE_PX // 3, axis=2)


def singly(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [one[np.newaxis] for one in pixels]


def embed(model: bytes, pixels: NDArray[np.uint8], batch_size: int = 1) -> NDArray[np.float32]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.concatenate(
        [
            session.run(["embedding"], {"images": pixels[start : start + batch_size]})[0]
            for start in range(0, len(pixels), batch_size)
        ]
    )


def golden(side_px: int) -> NDArray[np.uint8]:
    """Both golden pictures, whole and as 5 windows each."""
    pictures = []
    for path in sorted((SHIPPED_CARDS / "golden").glob("*.png")):
        picture = Image.open(path)
        wide, high = picture.size
        boxes = [(0, 0, wide, high)]
        boxes += [(x, y, x + 120, y + 120) for x in (0, wide - 120) for y in (0, high - 120)]
        boxes += [(wide // 3, high // 3, wide // 3 + 70, high // 3 + 70)]
        pictures += [np.asarray(picture.resize((side_px, side_px), box=box)) for box in boxes]
    return np.stack(pictures)


def weights_of(model: bytes) -> dict[str, NDArray[Any]]:
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load_from_string(model).graph.initializer
    }


@pytest.fixture(scope="module", params=list(VARIANTS))
def lite(request: pytest.FixtureRequest) -> tuple[bytes, bytes, NDArray[np.uint8]]:
    """A float model, its int8 version by the two golden pictures, and pictures to try."""
    variant = VARIANTS[request.param]
    model = build_lite(variant).SerializeToString(deterministic=True)
    pixels = golden(variant.size_px)
    calibration = singly(pixels[:: len(pixels) // 2])
    return model, quantize_model(model, measure_ranges(model, calibration)), pixels


@pytest.fixture(scope="module")
def network() -> bytes:
    return make_network()


@pytest.fixture(scope="module")
def small(network: bytes) -> bytes:
    return quantize_model(network, measure_ranges(network, singly(noise(8))))


def test_int8_embeddings_are_near_those_in_float(
    lite: tuple[bytes, bytes, NDArray[np.uint8]],
) -> None:
    model, quantized, pixels = lite

    embeddings = embed(quantized, pixels)

    cosines = (embed(model, pixels) * embeddings).sum(axis=1)
    # Measured on 554 photos: mean 0.993, 99 of 100 above 0.966 (Lite0) and 0.974 (Lite2).
    assert cosines.min() > 0.97
    assert cosines.mean() > 0.985
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(np.ones(len(pixels)), abs=1e-5)


def test_an_int8_batch_does_not_mix_pictures(
    lite: tuple[bytes, bytes, NDArray[np.uint8]],
) -> None:
    _, quantized, pixels = lite

    alone, together = embed(quantized, pixels[:5]), embed(quantized, pixels[:5], batch_size=5)

    assert together == pytest.approx(alone, abs=1e-5)


def test_an_int8_file_is_valid_and_a_third_of_the_float_one(
    lite: tuple[bytes, bytes, NDArray[np.uint8]],
) -> None:
    model, quantized, _ = lite

    onnx.checker.check_model(quantized, full_check=True)
    assert len(quantized) < 0.35 * len(model)


def test_all_weights_but_the_first_are_int8_by_channel(
    lite: tuple[bytes, bytes, NDArray[np.uint8]],
) -> None:
    graph = onnx.load_from_string(lite[1]).graph
    weights = weights_of(lite[1])
    givers = {node.output[0]: node for node in graph.node}
    first, *others = [node for node in graph.node if node.op_type == "Conv"]

    assert weights[first.input[1]].dtype == np.float32
    assert len(others) > 40
    for node in others:
        giver = givers[node.input[1]]
        values, scales, zeros = (weights[name] for name in giver.input)
        assert (giver.op_type, giver.attribute[0].i) == ("DequantizeLinear", 0)
        assert values.dtype == np.int8
        assert scales.shape == (len(values),)
        assert not zeros.any()


def test_activations_are_uint8_and_the_ends_of_the_graph_float(
    lite: tuple[bytes, bytes, NDArray[np.uint8]],
) -> None:
    graph = onnx.load_from_string(lite[1]).graph
    weights = weights_of(lite[1])
    quantizers = [node for node in graph.node if node.op_type == "QuantizeLinear"]

    assert all(weights[node.input[2]].dtype == np.uint8 for node in quantizers)
    for kind in ("Cast", "Sub", "GlobalAveragePool", "ReduceL2", "Div"):
        # Nothing is made uint8 that one of them gives.
        given = {name for node in graph.node if node.op_type == kind for name in node.output}
        assert given
        assert given.isdisjoint(node.input[0] for node in quantizers)


def test_the_same_ranges_give_the_same_bytes_in_another_process(network: bytes) -> None:
    ranges = measure_ranges(network, singly(noise(8)))
    program = (
        "import hashlib, sys\n"
        "from twinlens.models.build import build_model\n"  # see quantize.py's imports
        "from twinlens.models.build.quantize import quantize_model\n"
        "ranges, model = eval(sys.argv[1]), sys.stdin.buffer.read()\n"
        "print(hashlib.sha256(quantize_model(model, ranges)).hexdigest())"
    )

    # Other seeds put Python's sets of names in another order.
    digests = {
        subprocess.run(
            [sys.executable, "-c", program, repr(ranges)],
            input=network,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout.decode()
        for seed in ("1", "2")
    }

    assert digests == {hashlib.sha256(quantize_model(network, ranges)).hexdigest() + "\n"}


def test_ranges_are_those_that_another_runtime_sees(network: bytes) -> None:
    pixels = noise(3)

    ranges = measure_ranges(network, singly(pixels))

    assert list(ranges) == sorted(ranges)
    assert {"stem.out", "pointwise", "sum", "gemm", "matmul"} <= set(ranges)
    model = onnx.load_from_string(network)
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ranges
    )
    expected = ReferenceEvaluator(model).run(None, {"images": pixels})
    for (least, largest), values in zip(ranges.values(), expected, strict=True):
        assert (least, largest) == pytest.approx((values.min(), values.max()), abs=1e-4)


def test_every_kind_of_layer_stays_near_float(network: bytes, small: bytes) -> None:
    pixels = noise(5, seed=1)

    embeddings = embed(small, pixels)

    assert (embeddings * embed(network, pixels)).sum(axis=1).min() > 0.995
    # By another runtime too, so it is the file that is right, and not only this CPU's kernels.
    model = onnx.load_from_string(small)
    model.opset_import[0].version = 19  # onnx's own runtime has no older DequantizeLinear
    others: Any = ReferenceEvaluator(model).run(None, {"images": pixels})
    assert (embeddings * others[0]).sum(axis=1).min() > 0.999


def neighbours(values: NDArray[np.int8]) -> int:
    """The largest sum of two numbers of one sign that a kernel may add up in 16 bits."""
    largest = 0
    orders = [values, np.moveaxis(values, 1, -1)] if values.ndim == 4 else [values]
    for order in orders:
        for channel in order.reshape(len(values), -1).astype(int):
            # In a GEMM of depth 4 they are 0 and 1, 2 and 3.
            for first, second in list(pairwise([*channel, 0]))[::2]:
                if first * second >= 0:
                    largest = max(largest, abs(first + second))
    return largest


def test_no_sum_of_two_products_leaves_16_bits(small: bytes) -> None:
    weights = weights_of(small)

    for name in ("pointwise", "square", "grouped", "head", "gemm", "matmul"):
        values = weights[f"{name}.weight_quantized"]
        rows = values.T if name == "matmul" else values
        # 255 is the largest activation, 32,767 the largest number of 16 bits.
        assert 255 * neighbours(rows) <= np.iinfo(np.int16).max
        # But no more than needed is given up: 64 is what `reduce_range` leaves.
        assert np.abs(values.astype(int)).max() > 64
    # One channel alone has its own kernel, which adds in 32 bits.
    depthwise = np.abs(weights["depthwise.weight_quantized"].astype(int))
    assert (depthwise.reshape(16, -1).max(axis=1) == 127).all()


@pytest.mark.parametrize("place", ["first", "last"])
def test_of_an_odd_number_of_weights_none_is_clipped(place: str) -> None:
    network = Network()
    network.conv("stem", [3, 3, 3, 3])
    network.conv("odd", [8, 3, 3, 3])
    network.pool()
    model = onnx.load_from_string(network.finish(8))
    [weight] = [one for one in model.graph.initializer if one.name == "odd.weight"]
    values = numpy_helper.to_array(weight).copy()
    # 27 in a channel: were one left over, nothing would hold for it.
    values[:, *((0, 0, 0) if place == "first" else (2, 2, 2))] = 3.0
    weight.CopyFrom(numpy_helper.from_array(values, "odd.weight"))
    content = model.SerializeToString()

    weights = weights_of(quantize_model(content, measure_ranges(content, singly(noise(4)))))

    scales = weights["odd.weight_scale"].reshape(-1, 1, 1, 1)
    gaps = np.abs(weights["odd.weight_quantized"] * scales - values)
    assert (gaps <= 0.501 * scales).all()
    assert 255 * neighbours(weights["odd.weight_quantized"]) <= np.iinfo(np.int16).max


def test_older_operators_are_converted_first() -> None:
    model = make_network(opset=11)
    pixels = noise(5, seed=1)

    quantized = quantize_model(model, measure_ranges(model, singly(noise(8))))

    onnx.checker.check_model(quantized, full_check=True)
    assert onnx.load_from_string(quantized).opset_import[0].version >= 13
    assert (embed(quantized, pixels) * embed(model, pixels)).sum(axis=1).min() > 0.995


def test_batch_normalisation_goes_into_the_weights() -> None:
    model = make_network(has_batch_norm=True)
    pixels = noise(5, seed=1)

    quantized = quantize_model(model, measure_ranges(model, singly(noise(8))))

    kinds = [node.op_type for node in onnx.load_from_string(quantized).graph.node]
    assert "BatchNormalization" not in kinds
    assert (embed(quantized, pixels) * embed(model, pixels)).sum(axis=1).min() > 0.995


def test_a_projection_stays_in_float_and_may_come_first_or_last(
    network: bytes, small: bytes
) -> None:
    sample = embed(network, noise(60))
    pixels = noise(5, seed=1)
    projected = project_model(network, sample, 8)

    first = quantize_model(projected, measure_ranges(projected, singly(noise(8))))
    last = project_model(small, sample, 8)

    weights = weights_of(first)
    components = (embed(small, pixels) - weights["projection/mean"]) @ weights["projection/matrix"]
    expected = components / np.linalg.norm(components, axis=1, keepdims=True)
    assert embed(first, pixels) == pytest.approx(expected, abs=1e-4)
    assert embed(last, pixels) == pytest.approx(expected, abs=1e-4)


def test_ranges_that_lack_a_tensor_are_refused(network: bytes) -> None:
    ranges = measure_ranges(network, singly(noise(2)))
    del ranges["square"], ranges["sum"]

    with pytest.raises(ModelError, match=r"lack 2 of \d+ tensors.*'square' first"):
        quantize_model(network, ranges)


@pytest.mark.parametrize("wrong", [(1.0, -1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_an_impossible_range_is_refused(network: bytes, wrong: tuple[float, float]) -> None:
    ranges = measure_ranges(network, singly(noise(2)))

    with pytest.raises(ModelError, match="range of 'sum'"):
        quantize_model(network, {**ranges, "sum": wrong})


def test_ranges_of_more_tensors_change_nothing(network: bytes, small: bytes) -> None:
    ranges = measure_ranges(network, singly(noise(8)))

    assert quantize_model(network, {"another": (0.0, 1.0), **ranges}) == small


def test_no_picture_is_refused(network: bytes) -> None:
    with pytest.raises(ModelError, match="no picture"):
        measure_ranges(network, [])


def test_what_cannot_be_quantised_is_refused(small: bytes) -> None:
    one_layer = Network()
    one_layer.conv("stem", [16, 3, 3, 3])
    one_layer.pool()
    for model, reason in (
        (build_phash().SerializeToString(), "gives bits"),
        (small, "quantised already"),
        (one_layer.finish(16), "nothing to quantise"),
    ):
        with pytest.raises(ModelError, match=reason):
            measure_ranges(model, singly(noise(1)))
        with pytest.raises(ModelError, match=reason):
            quantize_model(model, {})


def test_the_quantiser_says_nothing(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    network = Network()
    network.conv("stem", [16, 3, 3, 3])
    network.pool()
    # It warns of a bias that is no constant, on the root logger.
    network.dense("gemm", "Gemm", [16, 16], bias="pooled", transB=1)
    model = network.finish(16)
    handlers = [*logging.getLogger().handlers]

    quantize_model(model, measure_ranges(model, singly(noise(2))))
    logging.getLogger().warning("of others")

    assert [record.message for record in caplog.records] == ["of others"]
    assert logging.getLogger().handlers == handlers
    assert capfd.readouterr() == ("", "")
