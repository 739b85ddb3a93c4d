"""Text encoders in the one form give what they gave as they came."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support.repositories import DIMENSION, TABLE, text_graph, vision_graph

from twinlens.models.build.text_tower import adapt_text, count_tokens
from twinlens.shared.errors import ModelError

IDS = np.array([[2, 7, 4, 1, 0, 0], [2, 8, 8, 5, 6, 1]], np.int64)
MASK = np.array([[1, 1, 1, 1, 0, 0], [1] * 6], np.int64)
FIRST = TABLE[IDS][:, 0]
MEAN = (TABLE[IDS] * MASK[..., np.newaxis]).sum(1) / MASK.sum(1, keepdims=True)


def run(model: bytes) -> NDArray[Any]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    types = {value.name: value.type for value in session.get_inputs()}
    assert set(types.values()) == {"tensor(int64)"}
    [output] = session.get_outputs()
    assert (output.name, output.type) == ("text_embedding", "tensor(float)")
    fed = {"input_ids": IDS, "attention_mask": MASK}
    values: NDArray[Any] = session.run(None, {name: fed[name] for name in types})[0]
    return values


def test_a_vector_is_taken_as_it_is() -> None:
    adapted = adapt_text(
        text_graph(("last_hidden_state", "text_embeds")).SerializeToString(), "text_embeds"
    )
    expected = (TABLE[IDS] * MASK[..., np.newaxis]).sum(1)
    assert run(adapted) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("pool", "expected"), [("cls", FIRST), ("mean", MEAN)])
def test_tokens_are_pooled(pool: Any, expected: NDArray[Any]) -> None:
    model = text_graph(("last_hidden_state",)).SerializeToString()
    assert run(adapt_text(model, pool=pool)) == pytest.approx(expected, abs=1e-5)


def test_ids_of_32_bits_under_another_name_are_given() -> None:
    model = text_graph(("embedding",), ids="text", mask="", dtype=TensorProto.INT32, n_tokens=6)
    adapted = adapt_text(model.SerializeToString())
    session = ort.InferenceSession(adapted, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["input_ids"]
    theirs = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    [expected] = theirs.run(None, {"text": IDS.astype(np.int32)})
    assert run(adapted) == pytest.approx(expected)
    assert count_tokens(model.SerializeToString()) == 6
    assert count_tokens(text_graph(("embedding",)).SerializeToString()) == 0


def test_types_of_sentences_are_0() -> None:
    names = ("input_ids", "token_type_ids")
    taken = [helper.make_tensor_value_info(one, TensorProto.INT64, ["b", "t"]) for one in names]
    given = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["b", "t", DIMENSION])
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("Gather", ["table", "token_type_ids"], ["types"]),
        helper.make_node("Add", ["words", "types"], ["out"]),
    ]
    table = numpy_helper.from_array(TABLE, "table")
    graph = helper.make_graph(nodes, "bert", taken, [given], [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    adapted = adapt_text(model.SerializeToString(), pool="cls")
    assert run(adapted) == pytest.approx(FIRST + TABLE[0], abs=1e-6)


def test_a_graph_of_pictures_is_refused() -> None:
    model = vision_graph(("image_embeds",)).SerializeToString()
    with pytest.raises(ModelError, match=r"takes pixel_values float .*; input_ids"):
        adapt_text(model)
