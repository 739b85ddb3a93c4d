"""Reads the graph of a network that came from elsewhere."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, ValueInfoProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data
from onnx.inliner import inline_local_functions

from twinlens.models.build.lite import IR_VERSION, OPSET
from twinlens.shared.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import GraphProto, NodeProto, TensorProto

Message = TypeVar("Message")
Message_contra = TypeVar("Message_contra", contravariant=True)


class _Repeated(Protocol[Message_contra]):
    """A repeated field of protobuf, as far as it is needed here."""

    def __delitem__(self, places: slice, /) -> None: ...

    def extend(self, values: Iterable[Message_contra], /) -> None: ...


# Operators that have channels second, whatever the layout of the network's input.
_CHANNELS_FIRST = {
    "AveragePool",
    "BatchNormalization",
    "Conv",
    "ConvTranspose",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GroupNormalization",
    "InstanceNormalization",
    "LRN",
    "MaxPool",
    "QLinearConv",
}


def read_network(path: Path) -> bytes:
    """Reads an ONNX file, and takes in the weights that lie in other files beside it.

    Raises:
        ModelError: A file is missing or cannot be read, or all is more than 2 GiB.
    """
    try:
        content: bytes = onnx.load(path).SerializeToString()
    except Exception as error:  # protobuf and onnx have no common base of their errors
        raise ModelError(
            f"{path.name} cannot be read as ONNX: {error}. Put the files with its weights beside "
            "it, under the names that they were saved with; all must be less than 2 GiB"
        ) from error
    return content


def parse_network(content: bytes) -> ModelProto:
    """Parses an ONNX file: functions put in place, weights not listed as inputs.

    Raises:
        ModelError: It is not ONNX, is empty, or keeps weights in other files.
    """
    try:
        model: ModelProto = ModelProto.FromString(content)
    except Exception as error:  # protobuf's error, and protobuf is not a dependency of ours
        raise ModelError(f"the file is not ONNX ({error}). Export the network as ONNX") from error
    if not model.graph.node:
        raise ModelError("the file is not ONNX, or its graph is empty. Export the network as ONNX")
    if any(uses_external_data(tensor) for tensor in _tensors(model.graph)):
        raise ModelError(
            "the graph keeps weights in other files, which did not come with it. Save all in one: "
            "onnx.save(onnx.load(FILE), NEW), or torch.onnx.export(…, external_data=False)"
        )
    if model.functions:
        model = inline_local_functions(model)
    # Before IR version 4 every weight was listed as an input too.
    weights = {tensor.name for tensor in model.graph.initializer}
    weights |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    keep(model.graph.input, [each for each in model.graph.input if each.name not in weights])
    for dim in (dim for each in model.graph.input for dim in each.type.tensor_type.shape.dim):
        if dim.dim_value <= 0 and not dim.dim_param:
            # Some exporters mean "any number" by 0 and -1.
            dim.Clear()
    # What the operators need and no more: a runtime refuses a version newer than itself.
    needed = helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
    model.ir_version = max(IR_VERSION, needed)
    return model


def find_dims(value: ValueInfoProto) -> list[int] | None:
    """Returns the shape, with 0 for what is free; None if there is none."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def find_opset(model: ModelProto) -> int:
    """Returns the version of ONNX's own operators."""
    return next((each.version for each in model.opset_import if _is_standard(each.domain)), OPSET)


def describe(values: Iterable[ValueInfoProto]) -> str:
    """Says inputs or outputs as a user knows them: "input:0 float [N, 224, 224, 3]"."""
    return "; ".join(map(_described, values)) or "nothing"


def is_channels_last(graph: GraphProto, *, image_is_channels_last: bool) -> bool:
    """Tells where the channels of the graph's output are, by the nodes that lead to it.

    A converted TensorFlow network takes [N, H, W, C] and computes on [N, C, H, W].
    """
    givers = find_givers(graph)
    fed = fed_by(graph, graph.input[0].name)
    name = graph.output[0].name
    while name in givers:
        node = givers[name]
        if node.op_type in _CHANNELS_FIRST:
            return False
        if node.op_type == "Transpose":
            return any(list(each.ints) == [0, 2, 3, 1] for each in node.attribute)
        name = next((each for each in node.input if each in fed), "")
    return image_is_channels_last


def integer_constants(graph: GraphProto) -> dict[str, NDArray[np.int64]]:
    """Returns the int64 tensors that are the same for every picture, by name."""
    constants = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64
    }
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value_ints":
                constants[node.output[0]] = np.array(attribute.ints, np.int64)
            if attribute.name == "value" and attribute.t.data_type == onnx.TensorProto.INT64:
                constants[node.output[0]] = numpy_helper.to_array(attribute.t)
    return constants


def find_givers(graph: GraphProto) -> dict[str, NodeProto]:
    """Returns the node that gives each tensor, by the tensor's name."""
    return {name: node for node in graph.node for name in node.output if name}


def fed_by(graph: GraphProto, image: str) -> set[str]:
    """Returns the names of all tensors that depend on the input; nodes must be in order."""
    fed = {image}
    for node in graph.node:
        if fed.intersection(taken_by(node)):
            fed.update(node.output)
    return fed - {""}


def taken_by(node: NodeProto) -> list[str]:
    """Returns the names of all that a node takes, its subgraphs included."""
    taken = [name for name in node.input if name]
    for subgraph in subgraphs_of(node):
        taken += [name for inner in subgraph.node for name in taken_by(inner)]
        taken += [value.name for value in subgraph.output]
    return taken


def subgraphs_of(node: NodeProto) -> Iterator[GraphProto]:
    """Yields the branches of If, the bodies of Loop and Scan."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def keep(field: _Repeated[Message], values: list[Message]) -> None:
    """Makes a repeated field of protobuf hold these messages, which may be its own."""
    copies = deepcopy(values)
    del field[:]
    field.extend(copies)


def _described(value: ValueInfoProto) -> str:
    dtype = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
    dims = ", ".join(
        str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?"
        for dim in value.type.tensor_type.shape.dim
    )
    return f"{value.name} {dtype} [{dims}]"


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
        for subgraph in subgraphs_of(node):
            yield from _tensors(subgraph)


def _is_standard(domain: str) -> bool:
    return domain in ("", "ai.onnx")
