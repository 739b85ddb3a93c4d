"""Makes the int8 version of a model: static quantisation by onnxruntime's own quantiser.

Activations are uint8, weights int8 with a scale for each output channel (uint8 weights are 11
times slower). Calibration and quantisation are two steps: ranges measured once can be kept, and
then every machine makes the same int8 file.

Left in float: preprocessing and the first layer (it costs 2 % of the speed and gains 0.001 to
0.004 of mean cosine), everything after the last layer (pooling, the L2 norm), and a projection by
`workbench/project.py`.

Without VNNI an x86 CPU adds two neighbouring products of uint8 and int8 in 16 bits, and clips the
sum. With the whole int8 range, the embeddings of EfficientNet-Lite0 on AVX2 had a mean cosine of
0.92 to those on VNNI, and 1.8 points of mAP less. So weights are scaled until no sum can be
clipped (`_pair_limits`): then all of 60 photos gave the same embeddings to the last bit. Seven
bits for all weights (`reduce_range`) do that too, but cost 0.01 to 0.02 of mean cosine to float,
this 0.001 to 0.002.
"""

from __future__ import annotations

import logging
import tempfile
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import (
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    load_model,
    numpy_helper,
    shape_inference,
)
from onnxruntime.quantization import QDQQuantizer, QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData

from twinlens.models.build.graph import keep, parse_network, taken_by
from twinlens.models.build.surgery import PROJECTION_PREFIX, convert_opset
from twinlens.models.session import CPU_PROVIDERS, INPUT_NAME, session_options
from twinlens.shared.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from onnx import GraphProto

Ranges = dict[str, tuple[float, float]]

_WEIGHTED = {"Conv", "Gemm", "MatMul"}
_ACTIVATIONS = {"Clip", "Relu"}
# What onnxruntime computes in int8 between two layers of weights. Others stay in float there.
_BETWEEN = {
    "Add",
    "AveragePool",
    "Concat",
    "Flatten",
    "GlobalAveragePool",
    "MaxPool",
    "Mul",
    "Pad",
    "Reshape",
    "Resize",
    "Sigmoid",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
# Of two activations only: constants would become uint8 with one scale for all channels.
_OF_TWO = {"Add", "Mul"}
# What hides weights from the quantiser, or lies between them and the activation, until onnxruntime
# has folded it. tf2onnx leaves a Mul behind each depthwise convolution of Keras.
_FOLDABLE = {"BatchNormalization", "Constant", "Identity", "Mul"}
_QUANTIZED = {"DequantizeLinear", "QLinearConv", "QLinearMatMul", "QuantizeLinear"}


def measure_ranges(model: bytes, pixels: Iterable[NDArray[np.uint8]]) -> Ranges:
    """Finds the least and the largest number of every tensor that `quantize_model` makes uint8.

    Two photos did for EfficientNet-Lite: 400 others gave the same mAP and cosine within 0.001.

    Args:
        model: An ONNX file of the one form, in float32.
        pixels: Pictures as the model takes them, uint8 [1, height, width, 3], RGB.

    Returns:
        (least, largest) by the tensor's name, in the order of names.

    Raises:
        ModelError: The model cannot be quantised, there is no picture, or a number is not finite.
    """
    prepared = _prepare(model)
    names = _activation_names(prepared, _choose_nodes(prepared.graph))
    known = {value.name for value in prepared.graph.output}
    prepared.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in known)
    session = ort.InferenceSession(
        prepared.SerializeToString(), sess_options=session_options(), providers=[*CPU_PROVIDERS]
    )
    seen: dict[str, list[float]] = {name: [] for name in names}
    for picture in pixels:
        for name, values in zip(names, session.run(names, {INPUT_NAME: picture}), strict=True):
            seen[name] += [float(values.min()), float(values.max())]
    if not all(seen.values()):
        raise ModelError("no picture was given to calibrate with; pass one at least")
    ranges = {name: (min(values), max(values)) for name, values in seen.items()}
    _check_ranges(ranges, names)
    return ranges


def quantize_model(model: bytes, ranges: Mapping[str, tuple[float, float]]) -> bytes:
    """Makes a model's int8 version.

    Args:
        model: An ONNX file of the one form, in float32.
        ranges: `measure_ranges` of the same model; tensors that it has not are passed over.

    Returns:
        The ONNX file's bytes, the same for the same input (with one version of onnx and
        onnxruntime): input and output are as before, the weights int8.

    Raises:
        ModelError: The model gives bits, is int8 already, or has nothing to quantise; or a range
            is missing or impossible.
    """
    prepared = _prepare(model)
    nodes = _choose_nodes(prepared.graph)
    names = _activation_names(prepared, nodes)
    _check_ranges(ranges, names)
    # float32, as the quantiser takes them.
    limits = {name: tuple(np.float32(limit) for limit in ranges[name]) for name in names}
    with _silence():
        quantizer = QDQQuantizer(
            prepared,
            per_channel=True,
            reduce_range=False,  # _weight_limits loses less
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
            nodes_to_quantize=[node.name for node in nodes],
            nodes_to_exclude=[],
            op_types_to_quantize=sorted({node.op_type for node in nodes}),
            extra_options={"TensorQuantOverrides": _weight_limits(prepared.graph, nodes)},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    return _finish(quantizer.model.model)


def _prepare(model: bytes) -> ModelProto:
    """Parses a model and brings it to what the quantiser reads; each node has a name."""
    parsed = parse_network(model)
    output = parsed.graph.output[0]
    if output.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise ModelError(
            "the model gives bits, or numbers that are not float32, and would not be faster in "
            "int8. Keep it as it is"
        )
    if any(node.op_type in _QUANTIZED for node in parsed.graph.node):
        raise ModelError("the model is quantised already. Pass the float model it was made from")
    # Below opset 13 a scale for each channel is not valid.
    prepared = convert_opset(parsed, np.dtype(np.float32))
    keep(prepared.graph.output, [output])
    if any(node.op_type in _FOLDABLE for node in prepared.graph.node):
        prepared = _fold(prepared)
    _name_nodes(prepared.graph)
    return prepared


def _fold(model: ModelProto) -> ModelProto:
    """Scales and batch normalisation go into the weights, and constants become weights."""
    options = session_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(model.SerializeToString(), options, providers=[*CPU_PROVIDERS])
        folded = load_model(path)
    used = {node.domain for node in folded.graph.node}
    keep(folded.opset_import, [each for each in folded.opset_import if each.domain in used])
    return folded


def _name_nodes(graph: GraphProto) -> None:
    """Gives each node a name of its own; ONNX lets them have none, or share one."""
    seen: set[str] = set()
    for number, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}#{number}"
        seen.add(node.name)


def _choose_nodes(graph: GraphProto) -> list[NodeProto]:
    """Layers of weights but the first, the activations after them, and what lies between them."""
    constants = {tensor.name for tensor in graph.initializer}
    layers = _find_layers(graph)
    before = _before(graph, layers)
    chosen: dict[str, NodeProto] = {}
    given: set[str] = set()
    for node in graph.node:
        inputs = set(node.input)
        is_between = not inputs.isdisjoint(given) and not before.isdisjoint(node.output)
        if node.op_type in _OF_TWO:
            is_between = is_between and inputs.isdisjoint(constants)
        if (
            node.name in layers
            or (node.op_type in _ACTIVATIONS and node.input[0] in given)
            or (node.op_type in _BETWEEN and is_between)
        ):
            chosen[node.name] = node
            given.update(node.output)
    return [*chosen.values()]


def _find_layers(graph: GraphProto) -> set[str]:
    """Names of the nodes whose weights become int8: all but those that see the picture first."""
    weights = {each.name: each for each in graph.initializer}
    fed: set[str] = set()
    layers: set[str] = set()
    for node in graph.node:
        is_layer = _is_layer(node, weights)
        is_fed = not fed.isdisjoint(taken_by(node))
        if is_layer and is_fed and not node.name.startswith(PROJECTION_PREFIX):
            layers.add(node.name)
        if is_layer or is_fed:
            fed.update(node.output)
    if not layers:
        raise ModelError(
            "the model has nothing to quantise: no Conv, Gemm or MatMul with float32 weights "
            "after the first, which stays in float. Keep it as it is"
        )
    return layers


def _is_layer(node: NodeProto, weights: Mapping[str, TensorProto]) -> bool:
    if node.op_type not in _WEIGHTED or node.input[1] not in weights:
        return False
    weight = weights[node.input[1]]
    is_matrix = len(weight.dims) == 2 or node.op_type == "Conv"
    return weight.data_type == TensorProto.FLOAT and is_matrix


def _before(graph: GraphProto, layers: set[str]) -> set[str]:
    """Names of all tensors that some layer depends on."""
    before: set[str] = set()
    for node in reversed(graph.node):
        if node.name in layers or not before.isdisjoint(node.output):
            before.update(taken_by(node))
    return before


def _activation_names(model: ModelProto, nodes: list[NodeProto]) -> list[str]:
    """Names of the float tensors that these nodes take and give, weights left out."""
    graph = shape_inference.infer_shapes(model).graph
    constants = {tensor.name for tensor in graph.initializer}
    floats = {
        value.name
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    taken = {name for node in nodes for name in (*node.input, *node.output)}
    return sorted((taken & floats) - constants)


def _check_ranges(ranges: Mapping[str, tuple[float, float]], names: list[str]) -> None:
    missing = [name for name in names if name not in ranges]
    if missing:
        raise ModelError(
            f"the ranges lack {len(missing)} of {len(names)} tensors of this model, "
            f"{missing[0]!r} first: they are of another model or version. Measure them anew"
        )
    for name in names:
        least, largest = ranges[name]
        if not (isfinite(least) and isfinite(largest) and least <= largest):
            raise ModelError(
                f"the range of {name!r} is {least} to {largest}, and must be two finite numbers, "
                "the smaller first. Check the model with these pictures, and measure anew"
            )


def _weight_limits(
    graph: GraphProto, nodes: list[NodeProto]
) -> dict[str, list[dict[str, int | np.float32]]]:
    """What 127 stands for in each output channel, as onnxruntime's TensorQuantOverrides."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    limits = {}
    for node in nodes:
        if node.op_type in _WEIGHTED:
            values = numpy_helper.to_array(weights[node.input[1]])
            axis = _channel_axis(node)
            limits[node.input[1]] = [
                {"axis": axis, "rmin": -limit, "rmax": limit}
                for limit in _channel_limits(node, np.moveaxis(values, axis, 0))
            ]
    return limits


def _channel_axis(node: NodeProto) -> int:
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    has_outputs_first = node.op_type == "Conv" or attributes.get("transB", 0)
    return 0 if has_outputs_first else 1


def _channel_limits(node: NodeProto, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    groups = next((each.i for each in node.attribute if each.name == "group"), 1)
    if groups == len(rows) > 1 == rows.shape[1]:
        # Depthwise: onnxruntime adds these products in 32 bits, so they keep the whole range.
        limits: NDArray[np.float32] = np.abs(rows).reshape(len(rows), -1).max(axis=1)
        return limits
    # Kernels add up over the channels last, or, as the weights lie here, over the columns last.
    return np.maximum(_pair_limits(rows), _pair_limits(np.moveaxis(rows, 1, -1)))


def _pair_limits(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest sum of two neighbours of one sign, float32 [n_rows].

    Were it 127, rounded weights of such a pair add up to 128 at most, and 255 x 128 = 32,640 is
    less than the 32,767 that 16 bits hold.

    Source: the instruction VPMADDUBSW, in Intel's Software Developer's Manual.
    """
    flat = rows.reshape(len(rows), -1)
    pairs = np.pad(flat, ((0, 0), (0, flat.shape[1] % 2))).reshape(len(rows), -1, 2)
    above, below = np.maximum(pairs, 0).sum(axis=2), np.maximum(-pairs, 0).sum(axis=2)
    limits: NDArray[np.float32] = np.maximum(above, below).max(axis=1)
    return limits


def _finish(model: ModelProto) -> bytes:
    # Shapes within the graph and the quantiser's notes: every runtime finds them itself.
    del model.graph.value_info[:], model.metadata_props[:]
    model.producer_name, model.producer_version = "twinlens", ""
    content: bytes = model.SerializeToString(deterministic=True)
    return content


@contextmanager
def _silence() -> Iterator[None]:
    """Drops what the quantiser logs; it logs on the root, and would set up a handler there."""
    root, handler = logging.getLogger(), logging.NullHandler()

    def is_ours(record: logging.LogRecord) -> bool:
        return "onnxruntime" not in Path(record.pathname).parts

    root.addHandler(handler)
    root.addFilter(is_ours)
    try:
        yield
    finally:
        root.removeFilter(is_ours)
        root.removeHandler(handler)
