"""One node of an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto, helper

Attribute = int | list[int]


def make_node(
    kind: str, inputs: Sequence[str], output: str, name: str, **attributes: Attribute
) -> NodeProto:
    """Makes a node with one output.

    Args:
        kind: The operator.
        inputs: Names of the tensors that it takes.
        output: Name of the tensor that it gives.
        name: Its own name.
        attributes: The operator's, by name.
    """
    node = helper.make_node(kind, inputs, [output], name=name)
    # In the order of their names, as onnx itself has them: the bytes are part of a card.
    node.attribute.extend(
        helper.make_attribute(key, value) for key, value in sorted(attributes.items())
    )
    return node
