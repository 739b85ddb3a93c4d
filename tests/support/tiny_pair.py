"""A pair like CLIP, made on the spot: pictures and words in one space of red, green and blue."""

from __future__ import annotations

import io

import numpy as np
import onnx
from onnx import GraphProto, TensorProto, helper, numpy_helper
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from twinlens.models.card import Card, OutputKind, TextSpec
from twinlens.models.distances import Metric

COLOURS = ("red", "green", "blue")
SIZE_PX = 16


def pair_card() -> Card:
    unknown = "0" * 64
    return Card(
        name="colours",
        version="1",
        title="mean colour, and its name",
        file="unknown",
        sha256=unknown,
        output=OutputKind.FLOAT32,
        dimension=3,
        metric=Metric.L2,
        licence="Apache-2.0",
        source="made by a test",
        input={"width": SIZE_PX, "height": SIZE_PX},
        text=TextSpec(
            file="unknown",
            sha256=unknown,
            tokenizer="unknown",
            tokenizer_sha256=unknown,
            max_tokens=8,
        ),
    )


def picture_graph() -> bytes:
    """Mean colour of each picture, of length 1."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Add", ["mean", "tiny"], ["above"]),
        helper.make_node("LpNormalization", ["above"], ["embedding"], axis=1, p=2),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIZE_PX, SIZE_PX, 3])
    out = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3])
    tiny = numpy_helper.from_array(np.array(1e-3, np.float32), "tiny")
    return _model(helper.make_graph(nodes, "pictures", [images], [out], [tiny]))


def text_graph(n_outputs: int = 3) -> bytes:
    """Mean of the words' colours; padding and unknown words count nothing."""
    table = np.zeros((len(COLOURS) + 1, n_outputs), np.float32)
    table[1:] = np.eye(len(COLOURS), n_outputs, dtype=np.float32) * 5
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["words", "wide"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["text_embeds"], keepdims=0),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "T"])
        for name in ("input_ids", "attention_mask")
    ]
    out = helper.make_tensor_value_info("text_embeds", TensorProto.FLOAT, ["N", n_outputs])
    weights = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.array([2], np.int64), "last"),
        numpy_helper.from_array(np.array([1], np.int64), "middle"),
    ]
    return _model(helper.make_graph(nodes, "texts", inputs, [out], weights))


def parted_pair() -> tuple[Card, bytes, bytes]:
    """The same with pictures in one cone and words in a narrower one, as in CLIP's space.

    Returns:
        The card, and the graphs of pictures and of words.
    """
    card = pair_card().model_copy(update={"name": "parted", "dimension": 5})
    return card, _moved(picture_graph(), (0, 0, 0, 1, 0)), _moved(text_graph(), (0, 0, 0, 0, 5))


def _moved(model: bytes, where: tuple[int, ...]) -> bytes:
    """Makes what a graph gives of length 1, adds numbers to it, and makes it of length 1 again."""
    changed = onnx.load_from_string(model)
    graph, [output] = changed.graph, changed.graph.output
    [last] = [node for node in graph.node if output.name in node.output]
    last.output[0] = "as_it_was"
    graph.node.extend(
        [
            helper.make_node("LpNormalization", ["as_it_was"], ["unit"], axis=1, p=2),
            helper.make_node("MatMul", ["unit", "wider"], ["longer"]),
            helper.make_node("Add", ["longer", "where"], ["moved"]),
            helper.make_node("LpNormalization", ["moved"], [output.name], axis=1, p=2),
        ]
    )
    wider = np.eye(len(COLOURS), len(where), dtype=np.float32)
    graph.initializer.append(numpy_helper.from_array(wider, "wider"))
    graph.initializer.append(numpy_helper.from_array(np.array(where, np.float32), "where"))
    made = helper.make_tensor_value_info(output.name, TensorProto.FLOAT, ["N", len(where)])
    output.CopyFrom(made)
    content: bytes = changed.SerializeToString()
    return content


def tokenizer_file() -> bytes:
    words = {"[UNK]": 0} | {colour: n for n, colour in enumerate(COLOURS, start=1)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer.to_str().encode()


def plain_picture(colour: str | tuple[int, int, int]) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(content, "PNG")
    return content.getvalue()


def _model(graph: GraphProto) -> bytes:
    opsets = [helper.make_opsetid("", 17)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return model
