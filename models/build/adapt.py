"""Rewrites any ONNX network of pictures into the one form.

    images ─ presets.py ─ the network, cut by surgery.py ─ pooling ─ L2 norm ─ embedding

Every rewritten graph is tried (trial.py) beside the network as it came.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper
from pydantic import ValidationError

from twinlens.models.build.graph import (
    describe,
    find_dims,
    is_channels_last,
    parse_network,
    read_network,
)
from twinlens.models.build.lite import SMALLEST_NORM
from twinlens.models.build.nodes import Attribute, make_node
from twinlens.models.build.presets import PRESETS, Preprocessing, add_preprocessing
from twinlens.models.build.surgery import (
    PREFIX,
    add_prefix,
    convert_opset,
    cut_network,
    free_batch,
    write_adapted,
)
from twinlens.models.build.trial import (
    CLOSE,
    CLOSE_FLOAT16,
    NOISE,
    check_embeddings,
    probe_pictures,
    run_network,
)
from twinlens.models.card import InputSpec, Resizing, describe_faults
from twinlens.models.session import INPUT_NAME, OUTPUT_NAME
from twinlens.shared.errors import ModelError

__all__ = ["PRESETS", "Adapted", "Pool", "Preprocessing", "adapt_graph", "read_network"]

# Of feature maps; of the tokens of a transformer, the first or the mean of all; of a vector.
Pool = Literal["max", "avg", "cls", "mean", "none"]

SQUASHED = Resizing()

# Of card.py's `Card.dimension`, which has it from Milvus.
LARGEST_DIMENSION = 32768

_POOLS = {"max": "GlobalMaxPool", "avg": "GlobalAveragePool", "mean": "GlobalAveragePool"}
_MAPS_RANK, _TOKENS_RANK = 4, 3
_IMAGE_TYPES = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8}


@dataclass(frozen=True)
class Adapted:
    """A network in the one form: the ONNX file's bytes, and what its card must say of it."""

    model: bytes
    input: InputSpec
    dimension: int


@dataclass(frozen=True)
class _Image:
    """The network's own input. `n_batch` is 0 where it takes any number of pictures."""

    name: str
    dtype: int
    n_batch: int
    height_px: int
    width_px: int

    def batch_of(self, picture: NDArray[np.float32]) -> NDArray[np.generic]:
        """One picture, as often as the network wants pictures, in its type."""
        dtype = helper.tensor_dtype_to_np_dtype(self.dtype)
        return np.ascontiguousarray(picture.repeat(self.n_batch or 1, axis=0), dtype)


@dataclass(frozen=True)
class _Features:
    """What the network gave of one picture, and how to pool it.

    [1, dimension], feature maps of rank 4, or [1, tokens, dimension].
    """

    values: NDArray[np.floating]
    is_channels_last: bool
    pool: Pool

    @property
    def is_tokens(self) -> bool:
        return self.values.ndim == _TOKENS_RANK

    @cached_property
    def embedding(self) -> NDArray[np.float64]:
        """[dimension], of length 1: in numpy what `_add_head` does in a graph."""
        values = self.values.astype(np.float64)
        if self.is_tokens:
            values = values[:, 0] if self.pool == "cls" else values.mean(1)
        elif self.pool != "none":
            axes = (1, 2) if self.is_channels_last else (2, 3)
            values = values.max(axes) if self.pool == "max" else values.mean(axes)
        flat = values.ravel()
        # Numbers that are not finite go on as such, to be refused with the graph's own.
        with np.errstate(invalid="ignore"):
            return flat / max(float(np.linalg.norm(flat)), SMALLEST_NORM)


def adapt_graph(  # noqa: PLR0913 - each is an option of `models add`, and passed by name
    model: bytes,
    preprocessing: Preprocessing,
    *,
    resizing: Resizing = SQUASHED,
    size_px: int | None = None,
    output: str | None = None,
    pool: Pool = "none",
) -> Adapted:
    """Rewrites a network into the one form.

    Args:
        model: An ONNX file with its weights inside (`read_network` takes them in). It takes one
            picture: float32, float16 or uint8 of rank 4 with 3 channels.
        preprocessing: What the network wants done to pixels: one of `PRESETS`, or your own.
        resizing: How a picture becomes as large as the network's.
        size_px: The side of the picture, needed where the graph takes any size.
        output: The tensor to take the embedding from; None for the graph's only output.
        pool: How [N, channels, height, width] becomes [N, channels] ("max", "avg"), or
            [N, tokens, dimension] [N, dimension] ("cls", which is the first token, or "mean");
            "none" where the tensor is [N, dimension], or height and width are 1.

    Returns:
        A graph with input `images` uint8 [N, height, width, 3] RGB and output `embedding`
        float32 [N, dimension], each row of length 1.

    Raises:
        ModelError: The graph cannot be rewritten like this; the message says what it is, what
            was expected, and which option to pass.
        ModelRefused: The rewritten graph's vectors are not of length 1, differ from those of the
            original network, depend on the other pictures of a batch, or not on the picture.
    """
    network = parse_network(model)
    cut_network(network, output)
    image = _find_image(network.graph, preprocessing, size_px)
    spec = _input_spec(image, resizing)
    pictures = probe_pictures(spec)
    batch = image.batch_of(preprocessing.apply(pictures[NOISE]))
    values = run_network(network, batch)[:1]
    features = _find_features(network.graph, values, preprocessing, pool)
    limit = CLOSE_FLOAT16 if _has_float16(network.graph) else CLOSE
    network = convert_opset(network, values.dtype)
    add_prefix(network.graph)
    free_batch(network.graph, PREFIX + image.name, image.n_batch)
    adapted = _assemble(network, preprocessing, image, features)
    check_embeddings(adapted, pictures, features.embedding, limit)
    return Adapted(adapted, spec, features.embedding.size)


def _find_image(graph: GraphProto, preprocessing: Preprocessing, size_px: int | None) -> _Image:
    subject = f"{graph.output[0].name!r} is made of {describe(graph.input)}"
    if len(graph.input) != 1:
        raise ModelError(
            f"{subject}; one input, a picture, is expected. Pass --output with a tensor that is "
            "made of the picture alone"
        )
    value = graph.input[0]
    dtype, dims = value.type.tensor_type.elem_type, find_dims(value)
    if dtype not in _IMAGE_TYPES or dims is None or len(dims) != 4:
        raise ModelError(
            f"{subject}; a picture is expected: float, float16 or uint8 of rank 4. Export the "
            "network with such an input"
        )
    _check_channels(subject, dims, preprocessing)
    if dtype == TensorProto.UINT8 and not preprocessing.is_identity:
        raise ModelError(
            f"{subject}: bytes, so the arithmetic on pixels is inside already. Pass --scale 1 "
            "--mean 0,0,0 --std 1,1,1"
        )
    at = 2 if preprocessing.layout == "nchw" else 1
    height, width = (_side(subject, dim, size_px) for dim in dims[at : at + 2])
    return _Image(value.name, dtype, dims[0], height, width)


def _check_channels(subject: str, dims: list[int], preprocessing: Preprocessing) -> None:
    at, other = (1, 3) if preprocessing.layout == "nchw" else (3, 1)
    if dims[at] in (0, 3):
        return
    remedy = "Export a network of colour pictures"
    if dims[other] == 3:
        remedy = f"Pass --layout {'nhwc' if at == 1 else 'nchw'}"
    raise ModelError(
        f"{subject}; 3 channels are expected, in layout {preprocessing.layout} as dimension {at} "
        f"(from 0). {remedy}"
    )


def _side(subject: str, dim: int, size_px: int | None) -> int:
    if not dim and size_px is None:
        raise ModelError(f"{subject}, of any height or width: pass --size with the side in pixels")
    if dim and size_px not in (None, dim):
        raise ModelError(
            f"{subject}, and --size {size_px} does not fit: leave it out, or export the network "
            "with a free height and width"
        )
    return dim or size_px or 0


def _input_spec(image: _Image, resizing: Resizing) -> InputSpec:
    try:
        return InputSpec(width=image.width_px, height=image.height_px, **resizing.model_dump())
    except ValidationError as error:
        faults = "; ".join(describe_faults(error))
        raise ModelError(f"{faults}. Pass another --size, --resize-to or --crop") from error


def _find_features(
    graph: GraphProto, values: NDArray[np.floating], preprocessing: Preprocessing, pool: Pool
) -> _Features:
    sides = list(values.shape[1:])
    subject = f"{graph.output[0].name!r} has shape {['N', *sides]}"
    _check_pool(subject, sides, pool)
    is_last = is_channels_last(graph, image_is_channels_last=preprocessing.layout == "nhwc")
    features = _Features(values, is_last, pool)
    if not 0 < features.embedding.size <= LARGEST_DIMENSION:
        raise ModelError(
            f"{subject}, which makes an embedding of {features.embedding.size} numbers; at most "
            f"{LARGEST_DIMENSION} are expected. Pass --pool, or --output with a smaller tensor"
        )
    return features


def _check_pool(subject: str, sides: list[int], pool: Pool) -> None:
    rank = len(sides) + 1
    if rank == _MAPS_RANK:
        is_vector = pool == "none" and sorted(sides)[:2] == [1, 1]
        if pool not in ("max", "avg") and not is_vector:
            raise ModelError(f"{subject}, and [N, dimension] is expected: pass --pool max or avg")
    elif rank == _TOKENS_RANK:
        if pool not in ("cls", "mean"):
            raise ModelError(
                f"{subject}, as a transformer's tokens have, and [N, dimension] is expected: pass "
                "--pool cls, for the first, or mean, as the network was trained"
            )
    elif rank != 2:
        raise ModelError(
            f"{subject}; [N, dimension], [N, channels, height, width] or [N, tokens, dimension] is "
            "expected. Pass --output with a tensor of such a shape"
        )
    elif pool != "none":
        raise ModelError(f"{subject}, which has nothing to pool: leave --pool out")


def _assemble(
    network: ModelProto, preprocessing: Preprocessing, image: _Image, features: _Features
) -> bytes:
    graph = GraphProto(name="adapted")
    add_preprocessing(graph, preprocessing, image.dtype, PREFIX + image.name)
    graph.node.extend(network.graph.node)
    graph.initializer.extend(network.graph.initializer)
    graph.sparse_initializer.extend(network.graph.sparse_initializer)
    _add_head(graph, network.graph.output[0].name, features)
    graph.input.append(
        helper.make_tensor_value_info(
            INPUT_NAME, TensorProto.UINT8, ["N", image.height_px, image.width_px, 3]
        )
    )
    graph.output.append(
        helper.make_tensor_value_info(
            OUTPUT_NAME, TensorProto.FLOAT, ["N", features.embedding.size]
        )
    )
    return write_adapted(graph, network)


def _add_head(graph: GraphProto, tensor: str, features: _Features) -> None:
    """Adds the nodes from the network's tensor to `embedding`, as lite.py has them."""

    def add(kind: str, inputs: list[str], output: str, **attributes: Attribute) -> str:
        name = output if output == OUTPUT_NAME else f"head/{output}"
        graph.node.append(make_node(kind, inputs, name, name, **attributes))
        return name

    if features.values.dtype != np.float32:
        tensor = add("Cast", [tensor], "numbers", to=TensorProto.FLOAT)
    if features.pool == "cls":
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "head/first"))
        tensor = add("Gather", [tensor, "head/first"], "pooled", axis=1)
    elif features.pool != "none":
        if features.is_tokens:
            tensor = add("Transpose", [tensor], "channels_first", perm=[0, 2, 1])
        elif features.is_channels_last:
            tensor = add("Transpose", [tensor], "channels_first", perm=[0, 3, 1, 2])
        tensor = add(_POOLS[features.pool], [tensor], "pooled_maps")
    if features.values.ndim > 2 and features.pool != "cls":
        tensor = add("Flatten", [tensor], "pooled")
    axes, smallest = np.array([1], np.int64), np.array(SMALLEST_NORM, np.float32)
    graph.initializer.append(numpy_helper.from_array(axes, "head/axes"))
    graph.initializer.append(numpy_helper.from_array(smallest, "head/smallest_norm"))
    # From opset 18 on, the axes are an input.
    squares = add("Mul", [tensor, tensor], "squares")
    total = add("ReduceSum", [squares, "head/axes"], "sum_of_squares", keepdims=1)
    norm = add("Sqrt", [total], "norm")
    # A picture that stirs nothing would be 0/0; so its vector is 0, which is refused below.
    norm = add("Max", [norm, "head/smallest_norm"], "norm_above_zero")
    add("Div", [tensor, norm], OUTPUT_NAME)


def _has_float16(graph: GraphProto) -> bool:
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer)
