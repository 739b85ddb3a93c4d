"""Tells of a graph which input is a picture, which output an embedding, and what it does itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto

from twinlens.models.build.graph import find_dims
from twinlens.models.build.presets import Layout, Preprocessing
from twinlens.shared.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import GraphProto, ValueInfoProto

    from twinlens.models.pull.pixels import Preparation

# Of a file in the form of protobuf.
LARGEST_GRAPH_BYTES = 2**31
# Outputs that are embeddings, the best first: the last two are before a projection to the space
# that pictures share with words.
PICTURE_OUTPUTS = ("image_embeds", "embedding", "sentence_embedding", "pooler_output")
WORD_OUTPUTS = ("text_embeds", "embedding", "sentence_embedding", "pooler_output")
TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")
_CLASSES = "logits"
MAPS_RANK = 4


def external_files(graph: Path) -> list[str]:
    """Returns the files beside a graph that have its weights, as it names them.

    Raises:
        ModelError: It is not ONNX.
    """
    try:
        model = onnx.load(graph, load_external_data=False)
    except Exception as error:  # protobuf and onnx have no common base of their errors
        raise ModelError(
            f"{graph.name} cannot be read as ONNX ({error}). Fetch it again, or pass another"
        ) from error
    places = [
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    ]
    return [*dict.fromkeys(places)]


def check_size(name: str, n_bytes: int) -> None:
    """Refuses a graph that is too large for one file.

    Raises:
        ModelError: It is.
    """
    if n_bytes >= LARGEST_GRAPH_BYTES:
        raise ModelError(
            f"{name} has {n_bytes / 1e9:.1f} GB with its weights, and a model here is one file of "
            "2 GiB at most. Pass --dtype fp16 or int8, or a smaller model of its family"
        )


def choose_output(graph: GraphProto, preferred: tuple[str, ...], name: str) -> str:
    """Returns the output that is an embedding, or tokens of one.

    Args:
        graph: The graph.
        preferred: Names of outputs, the best first.
        name: Of the graph's file.

    Raises:
        ModelError: There is none.
    """
    there = [value.name for value in graph.output]
    for one in (*preferred, *TOKEN_OUTPUTS):
        if one in there:
            return one
    others = [one for one in there if one != _CLASSES]
    if len(others) == 1 and _CLASSES not in there:
        only: str = others[0]
        return only
    raise ModelError(
        f"{name} gives {', '.join(there)}: "
        + ("classes alone, and " if others == [] else "")
        + "no embedding. Pass the repository of the model without its classification head, or "
        "--output with the tensor before it"
    )


def find_image(graph: GraphProto) -> ValueInfoProto:
    """Returns the input that is a picture: of rank 4.

    Raises:
        ModelError: There is none.
    """
    value: ValueInfoProto
    for value in graph.input:
        if len(find_dims(value) or []) == MAPS_RANK:
            return value
    names = ", ".join(value.name for value in graph.input)
    raise ModelError(
        f"the graph takes {names}, and no picture of rank 4. Pass a repository whose vision model "
        "takes pixel_values"
    )


def _is_channels_last(image: ValueInfoProto) -> bool:
    dims = find_dims(image) or []
    return dims[3] == 3 and dims[1] != 3


def arithmetic_left(image: ValueInfoProto, pixels: Preparation) -> Preprocessing:
    """What is left to do to pixels: a graph of bytes does the arithmetic itself."""
    said = pixels.preset.preprocessing
    layout: Layout = "nhwc" if _is_channels_last(image) else "nchw"
    if image.type.tensor_type.elem_type == TensorProto.UINT8:
        return Preprocessing(layout, said.channels, 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Preprocessing(layout, said.channels, said.scale, said.mean, said.std)


def free_side(graph: GraphProto, pixels: Preparation) -> int | None:
    """Returns the side of the picture, where the graph takes any.

    Raises:
        ModelError: The graph takes pictures of another size.
    """
    image = find_image(graph)
    dims = find_dims(image) or []
    at = 1 if _is_channels_last(image) else 2
    height, width = dims[at : at + 2]
    if (height or pixels.height, width or pixels.width) != (pixels.height, pixels.width):
        raise ModelError(
            f"the graph takes pictures of {width} x {height}, and its preprocessing gives "
            f"{pixels.width} x {pixels.height}. Pass a repository whose files belong together"
        )
    if height and width:
        return None
    if pixels.width != pixels.height:
        raise ModelError(
            f"the graph takes pictures of any size, and they are to be {pixels.width} x "
            f"{pixels.height}. Export the network with this size"
        )
    return pixels.width
