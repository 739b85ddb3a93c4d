"""Rewrites a text encoder into the one form: ids and their mask in, one vector out.

input_ids, attention_mask ─ casts ─ the network, cut by surgery.py ─ pooling ─ text_embedding
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from twinlens.models.build.graph import describe, find_dims, parse_network
from twinlens.models.build.nodes import Attribute, make_node
from twinlens.models.build.surgery import (
    PREFIX,
    add_prefix,
    convert_opset,
    cut_network,
    write_adapted,
)
from twinlens.shared.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TokenPool = Literal["cls", "mean", "none"]

IDS, MASK, EMBEDDING = "input_ids", "attention_mask", "text_embedding"
# Names of the same in other exports; the types of a text's sentences are all 0.
_NAMED = {"text": IDS, IDS: IDS, MASK: MASK, "token_type_ids": "token_type_ids"}


def adapt_text(model: bytes, output: str | None = None, pool: TokenPool = "none") -> bytes:
    """Rewrites a text encoder into the one form (`TextSpec`).

    Args:
        model: An ONNX file with its weights inside.
        output: The tensor to take the embedding from; None for the graph's only output.
        pool: How [N, T, dimension] becomes [N, dimension]: by the first token, or by the mean of
            those that the mask has; "none" where it is so already.

    Returns:
        A graph with inputs `input_ids` and `attention_mask` int64 [N, T], and the output
        `text_embedding` float32 [N, dimension].

    Raises:
        ModelError: The graph takes something else, or is not valid.
    """
    network = parse_network(model)
    cut_network(network, output)
    taken = {one.name: one.type.tensor_type.elem_type for one in network.graph.input}
    if not taken or not taken.keys() <= _NAMED.keys():
        raise ModelError(
            f"the text encoder takes {describe(network.graph.input)}; input_ids (or text), "
            "attention_mask and token_type_ids are expected. Pass --no-words for the pictures alone"
        )
    tensor = PREFIX + network.graph.output[0].name
    network = convert_opset(network, np.dtype(np.float32))
    add_prefix(network.graph)
    graph = _assemble(network, taken, tensor, pool)
    return write_adapted(graph, network)


def count_tokens(model: bytes) -> int:
    """Returns how many tokens a text encoder takes; 0 if any number."""
    for value in parse_network(model).graph.input:
        dims = find_dims(value) or []
        if _NAMED.get(value.name) == IDS and len(dims) == 2:
            return dims[1]
    return 0


def _assemble(
    network: ModelProto, taken: Mapping[str, int], tensor: str, pool: TokenPool
) -> GraphProto:
    graph = GraphProto(name="adapted")

    def add(kind: str, inputs: list[str], output: str, **attributes: Attribute) -> str:
        graph.node.append(make_node(kind, inputs, output, output, **attributes))
        return output

    for name, dtype in taken.items():
        source = _NAMED[name]
        if source not in (IDS, MASK):
            source = add("Sub", [IDS, IDS], f"words/{source}")
        add("Cast", [source], PREFIX + name, to=dtype)
    graph.node.extend(network.graph.node)
    graph.initializer.extend(network.graph.initializer)
    graph.sparse_initializer.extend(network.graph.sparse_initializer)
    tensor = add("Cast", [tensor], "words/numbers", to=TensorProto.FLOAT)
    add("Identity", [_pooled(graph, add, tensor, pool)], EMBEDDING)
    used = {name for node in graph.node for name in node.input}
    graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "T"])
        for name in (IDS, MASK)
        if name in used
    )
    graph.output.append(helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["N", "D"]))
    return graph


def _pooled(graph: GraphProto, add: Callable[..., str], tensor: str, pool: TokenPool) -> str:
    def constant(name: str, values: object) -> str:
        tensor_proto = numpy_helper.from_array(np.array(values, np.int64), f"words/{name}")
        graph.initializer.append(tensor_proto)
        return f"words/{name}"

    if pool == "cls":
        return add("Gather", [tensor, constant("first", 0)], "words/pooled", axis=1)
    if pool == "mean":
        mask = add("Cast", [MASK], "words/mask", to=TensorProto.FLOAT)
        wide = add("Unsqueeze", [mask, constant("last", [2])], "words/wide")
        kept = add("Mul", [tensor, wide], "words/kept")
        tokens = constant("tokens", [1])
        total = add("ReduceSum", [kept, tokens], "words/total", keepdims=0)
        count = add("ReduceSum", [mask, tokens], "words/count", keepdims=1)
        return add("Div", [total, count], "words/pooled")
    return tensor
