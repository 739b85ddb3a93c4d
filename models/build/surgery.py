"""Surgery on the graph of a network that came from elsewhere: cut it, free its batch, rename."""

from __future__ import annotations

import difflib
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, ValueInfoProto, helper, numpy_helper, version_converter

from twinlens.models.build.graph import (
    describe,
    fed_by,
    find_givers,
    find_opset,
    integer_constants,
    keep,
    subgraphs_of,
    taken_by,
)
from twinlens.models.build.lite import OPSET
from twinlens.shared.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from onnx import GraphProto, NodeProto

# Quantisers write invalid models of older sets of operators, and those have ReduceSum's axes and
# Softmax's meaning otherwise.
OLDEST_OPSET = 13
PREFIX = "network/"
# Begins every name that a projection adds (workbench/project.py); its nodes are left in float.
PROJECTION_PREFIX = "projection/"


def cut_network(model: ModelProto, output: str | None) -> None:
    """Leaves `output` as the graph's only output, and of the rest what it depends on.

    Args:
        model: The network; it is changed.
        output: A tensor that some node gives; the graph's only output if None.

    Raises:
        ModelError: There is no such tensor, or None was passed and there are several outputs.
    """
    graph = model.graph
    name = _only_output(graph) if output is None else output
    givers = find_givers(graph)
    if name not in givers:
        raise ModelError(_no_such_tensor(name, givers, graph))
    order = _needed_in_order(name, givers)
    nodes = {id(givers[tensor]): givers[tensor] for tensor in order if tensor in givers}
    needed = set(order)
    keep(graph.node, [*nodes.values()])
    keep(graph.input, [value for value in graph.input if value.name in needed])
    keep(graph.initializer, [each for each in graph.initializer if each.name in needed])
    sparse = [each for each in graph.sparse_initializer if each.values.name in needed]
    keep(graph.sparse_initializer, sparse)
    keep(graph.output, [ValueInfoProto(name=name)])
    _forget_export(graph)


def convert_opset(model: ModelProto, dtype: np.dtype[np.generic]) -> ModelProto:
    """Brings a graph that is older than OLDEST_OPSET to OPSET; returns any other as it is.

    Args:
        model: A network with one output.
        dtype: That output's type.

    Raises:
        ModelError: onnx cannot convert it.
    """
    opset = find_opset(model)
    if opset >= OLDEST_OPSET:
        return model
    output = model.graph.output[0].name
    elem_type = helper.np_dtype_to_tensor_dtype(dtype)
    keep(model.graph.output, [helper.make_tensor_value_info(output, elem_type, None)])
    try:
        converted: ModelProto = version_converter.convert_version(model, OPSET)
    except Exception as error:  # onnx has no common base of its errors
        raise ModelError(
            f"the graph is of opset {opset}, at least {OLDEST_OPSET} is needed, and onnx cannot "
            f"convert it: {error}. Export the network with opset {OPSET}"
        ) from error
    return converted


def free_batch(graph: GraphProto, image: str, n_batch: int) -> None:
    """Frees the batch size that an export wrote into the shapes of Reshape.

    Only shapes that are constants and begin with `n_batch`, of tensors that depend on the picture.
    Whether batches then work, and are right, has to be tried.

    Args:
        graph: The network, whose names begin with PREFIX; it is changed.
        image: Name of its input.
        n_batch: The batch size of the export; 0 if it is free already, so nothing is done.
    """
    if not n_batch:
        return
    constants = integer_constants(graph)
    fed = fed_by(graph, image)
    for number, node in enumerate(graph.node):
        if node.op_type != "Reshape" or node.input[0] not in fed or node.input[1] not in constants:
            continue
        shape = constants[node.input[1]]
        if shape.size and shape[0] == n_batch:
            # The constant may be another node's too, so it stays as it is.
            node.input[1] = f"batch/shape{number}"
            graph.initializer.append(numpy_helper.from_array(_freed(shape), node.input[1]))
            # By this attribute 0 would be no more "as it was".
            keep(node.attribute, [each for each in node.attribute if each.name != "allowzero"])


def add_prefix(graph: GraphProto) -> None:
    """Puts PREFIX before every name, so that none is that of a node or tensor added later."""
    # onnx.compose.add_prefix misses a subgraph's uses of weights (onnx 1.23).
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = PREFIX + value.name
    for sparse in graph.sparse_initializer:
        sparse.values.name = PREFIX + sparse.values.name
    for node in graph.node:
        node.name = _prefixed(node.name)
        node.input[:] = map(_prefixed, node.input)
        node.output[:] = map(_prefixed, node.output)
        for subgraph in subgraphs_of(node):
            add_prefix(subgraph)


def write_adapted(graph: GraphProto, network: ModelProto) -> bytes:
    """Returns the ONNX file of a graph that was made from a network's: the same bytes each time."""
    adapted = helper.make_model(
        graph,
        opset_imports=network.opset_import,
        ir_version=network.ir_version,
        producer_name="twinlens",
    )
    content: bytes = adapted.SerializeToString(deterministic=True)
    return content


def _needed_in_order(name: str, givers: dict[str, NodeProto]) -> list[str]:
    """Every tensor that `name` depends on, each after those that it is made of."""
    taken: dict[str, list[str]] = {}
    waiting = [name]
    while waiting:
        tensor = waiting.pop()
        if tensor not in taken:
            taken[tensor] = taken_by(givers[tensor]) if tensor in givers else []
            waiting += taken[tensor]
    try:
        return [*TopologicalSorter(taken).static_order()]
    except CycleError as error:
        raise ModelError(f"nodes of the graph wait for each other: {error.args[1]}") from error


def _forget_export(graph: GraphProto) -> None:
    """Drops shapes, which are of one batch, and notes, which name paths of another machine."""
    del graph.value_info[:], graph.quantization_annotation[:]
    for node in graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
        for subgraph in subgraphs_of(node):
            _forget_export(subgraph)


def _prefixed(name: str) -> str:
    # No name stays none: an input or output that is left out, a node that needs none.
    return PREFIX + name if name else ""


def _only_output(graph: GraphProto) -> str:
    if len(graph.output) != 1:
        raise ModelError(
            f"the graph gives {describe(graph.output)}, and one output is expected: pass --output "
            "with the name of the tensor to take"
        )
    name: str = graph.output[0].name
    return name


def _no_such_tensor(name: str, known: Iterable[str], graph: GraphProto) -> str:
    near = ", ".join(difflib.get_close_matches(name, list(known), n=5)) or "none"
    return (
        f"no node of the graph gives a tensor {name!r}. Names near it: {near}. Outputs of the "
        f"graph: {describe(graph.output)}. Pass one of these names as --output"
    )


def _freed(shape: NDArray[np.int64]) -> NDArray[np.int64]:
    # One -1 at most is allowed; 0 stands for "as it was".
    return np.array([0 if -1 in shape else -1, *shape[1:]], np.int64)
