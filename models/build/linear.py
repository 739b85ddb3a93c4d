"""A linear map at the end of a model's graph: it makes another version of the model.

The map can be read from the graph again. So what a library has of the version before need not be
embedded anew: vectors of one version are computed from those of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from twinlens.models.build.graph import keep, parse_network
from twinlens.models.build.lite import SMALLEST_NORM
from twinlens.models.build.nodes import Attribute, make_node
from twinlens.models.build.surgery import PROJECTION_PREFIX as PREFIX
from twinlens.models.build.surgery import convert_opset
from twinlens.models.session import OUTPUT_NAME
from twinlens.shared.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto

    from twinlens.models.session import Embeddings

_MEAN, _MATRIX = "mean", "matrix"


@dataclass(frozen=True)
class LinearMap:
    """Subtracts a mean, multiplies by a matrix, and makes the length 1.

    `mean` is float32 [d], `matrix` float32 [d, e].
    """

    mean: NDArray[np.float32]
    matrix: NDArray[np.float32]

    def apply(self, rows: Embeddings) -> NDArray[np.float32]:
        """Computes what the graph does: float32 [n, e] of float32 [n, d].

        A row that is the mean itself becomes 0.
        """
        components = (np.asarray(rows, np.float32) - self.mean) @ self.matrix
        norms = np.sqrt((components * components).sum(axis=1, keepdims=True))
        unit: NDArray[np.float32] = components / np.maximum(norms, np.float32(SMALLEST_NORM))
        return unit


def check_can_map(model: bytes) -> None:
    """Refuses a model that `add_linear_map` cannot change.

    Raises:
        ModelError: It gives bits, or has a linear map already.
    """
    graph = parse_network(model).graph
    if graph.output[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        raise ModelError(
            "the model gives bits, which have no principal components. Project a model with "
            "float32 embeddings"
        )
    if any(tensor.name.startswith(PREFIX) for tensor in graph.initializer):
        raise ModelError(
            "the model is projected already, or tuned. Pass the model it was made from"
        )


def add_linear_map(model: bytes, linear: LinearMap) -> bytes:
    """Adds a linear map to the end of a model's graph, and a new L2 norm.

    Args:
        model: An ONNX file of the one form with float32 embeddings, quantised or not.
        linear: Of the dimension that the model gives.

    Returns:
        The ONNX file's bytes, the same for the same input.
    """
    # From opset 13 on, ReduceSum takes its axes as an input.
    changed = convert_opset(parse_network(model), np.dtype(np.float32))
    _add_nodes(changed.graph, linear)
    content: bytes = changed.SerializeToString(deterministic=True)
    return content


def read_linear_map(model: bytes) -> LinearMap:
    """Returns the map that was added to a model.

    Raises:
        ModelError: There is none.
    """
    tensors = {tensor.name: tensor for tensor in parse_network(model).graph.initializer}
    try:
        mean, matrix = (numpy_helper.to_array(tensors[PREFIX + one]) for one in (_MEAN, _MATRIX))
    except KeyError:
        raise ModelError("the model's graph has no linear map at its end") from None
    return LinearMap(mean, matrix)


def _add_nodes(graph: GraphProto, linear: LinearMap) -> None:
    weights: dict[str, NDArray[np.generic]] = {
        _MEAN: linear.mean,
        _MATRIX: linear.matrix,
        "axes": np.array([1], np.int64),
        "smallest_norm": np.array(SMALLEST_NORM, np.float32),
    }
    for name, values in weights.items():
        graph.initializer.append(numpy_helper.from_array(values, PREFIX + name))
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{PREFIX}original" if name == OUTPUT_NAME else name for name in names]

    def add(kind: str, inputs: list[str], output: str, **attributes: Attribute) -> None:
        names = [PREFIX + name for name in inputs]
        name = output if output == OUTPUT_NAME else PREFIX + output
        graph.node.append(make_node(kind, names, name, PREFIX + output, **attributes))

    add("Sub", ["original", _MEAN], "centred")
    add("MatMul", ["centred", _MATRIX], "components")
    add("Mul", ["components", "components"], "squares")
    add("ReduceSum", ["squares", "axes"], "sum_of_squares", keepdims=1)
    add("Sqrt", ["sum_of_squares"], "norm")
    # A picture whose embedding is the mean itself would be 0/0; so its vector is 0.
    add("Max", ["norm", "smallest_norm"], "norm_above_zero")
    add("Div", ["components", "norm_above_zero"], OUTPUT_NAME)
    shape = ["N", linear.matrix.shape[1]]
    keep(graph.output, [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, shape)])
    keep(graph.value_info, [each for each in graph.value_info if each.name != OUTPUT_NAME])
