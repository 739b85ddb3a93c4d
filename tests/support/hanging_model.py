"""A model whose inference never ends for a white picture, and is quick for any other."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from support.tiny_pair import SIZE_PX, pair_card

from twinlens.models.card import Card

# At some 20 ns a turn, centuries.
N_TURNS = 2**60


def hanging_card() -> Card:
    return pair_card().model_copy(update={"name": "hangs", "text": None})


def hanging_graph() -> bytes:
    """Mean colour of each picture, and for a white one a loop before that."""
    turn = helper.make_graph(
        [
            helper.make_node("Identity", ["goes_on"], ["still"]),
            helper.make_node("Add", ["counted", "one"], ["more"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("counted", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, []),
        ],
    )
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMin", ["pixels"], ["darkest"], keepdims=0),
        helper.make_node("Equal", ["darkest", "brightest"], ["is_white"]),
        helper.make_node("Where", ["is_white", "many", "none"], ["turns"]),
        helper.make_node("Loop", ["turns", "yes", "zero"], ["counted_all"], body=turn),
        helper.make_node("Mul", ["counted_all", "zero"], ["nothing"]),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Add", ["mean", "nothing"], ["sum"]),
        helper.make_node("LpNormalization", ["sum"], ["embedding"], axis=1, p=2),
    ]
    constants = {
        "zero": np.array(0, np.float32),
        "brightest": np.array(255, np.float32),
        "one": np.array(1, np.float32),
        "yes": np.array(True),
        "many": np.array(N_TURNS, np.int64),
        "none": np.array(0, np.int64),
    }
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIZE_PX, SIZE_PX, 3])
    out = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3])
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "hangs", [images], [out], weights)
    opsets = [helper.make_opsetid("", 17)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return model
