"""Builds a 64-bit perceptual hash as an ONNX graph.

It tells copies of one picture (other size, other JPEG quality) from all else; it does not find
pictures of the same kind. The steps are those of pHash and of Python's `imagehash.phash`:
luma, DCT-II of 32 x 32, the 8 x 8 lowest frequencies, one bit each: above their median or not.

Sources: Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010;
luma: ITU-R BT.601.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from twinlens.models.build.lite import IR_VERSION, OPSET

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE_PX = 32
HASH_SIDE = 8
N_BITS = HASH_SIDE * HASH_SIDE
LUMA = (0.299, 0.587, 0.114)
# In a picture of one colour every frequency but the lowest is 0 and float32 makes noise of it
# (below 1e-3 here). Bits of noise would be a hash that no other runtime repeats.
NOISE = 0.01


def build_phash() -> ModelProto:
    """Builds the hash.

    The median is taken of all 64 values, the lowest frequency (DC) with them, and is the mean of
    the middle two. So DC, which is the largest in any picture but a black one, has bit 1.

    Returns:
        A model with input `images` uint8 [N, 32, 32, 3] RGB and output `embedding` uint8 [N, 8]:
        one byte for each row of frequencies, the lowest frequency in the highest bit.
    """
    weights: dict[str, NDArray[np.generic]] = {
        "luma": np.array(LUMA, np.float32),
        "basis": _dct_basis(),
        "basis_transposed": np.ascontiguousarray(_dct_basis().T),
        "flat_shape": np.array([-1, N_BITS], np.int64),
        "square_shape": np.array([-1, HASH_SIDE, HASH_SIDE], np.int64),
        "n_upper_half": np.array([N_BITS // 2 + 1], np.int64),
        "middle_start": np.array([N_BITS // 2 - 1], np.int64),
        "middle_end": np.array([N_BITS // 2 + 1], np.int64),
        "last_axis": np.array([1], np.int64),
        "noise": np.array(NOISE, np.float32),
        "bit_values": np.array([128, 64, 32, 16, 8, 4, 2, 1], np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["pixels", "luma"], ["grey"]),
        helper.make_node("MatMul", ["basis", "grey"], ["columns"]),
        helper.make_node("MatMul", ["columns", "basis_transposed"], ["low"]),
        helper.make_node("Reshape", ["low", "flat_shape"], ["flat"]),
        helper.make_node("TopK", ["flat", "n_upper_half"], ["upper_half", "places"], axis=1),
        helper.make_node(
            "Slice", ["upper_half", "middle_start", "middle_end", "last_axis"], ["middle"]
        ),
        helper.make_node("ReduceMean", ["middle"], ["median"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["flat", "median"], ["above"]),
        helper.make_node("Greater", ["above", "noise"], ["is_above"]),
        helper.make_node("Cast", ["is_above"], ["bits"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["bits", "square_shape"], ["bit_rows"]),
        helper.make_node("MatMul", ["bit_rows", "bit_values"], ["bytes"]),
        helper.make_node("Cast", ["bytes"], ["embedding"], to=TensorProto.UINT8),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIZE_PX, SIZE_PX, 3])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.UINT8, ["N", HASH_SIDE])
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "phash", [images], [embedding], initializers)
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="twinlens",
    )


def _dct_basis() -> NDArray[np.float32]:
    """The 8 lowest rows of the orthonormal DCT-II of 32 points, float32 [8, 32]."""
    # math.cos, not numpy.cos: its last bit does not depend on the CPU's vector unit.
    rows = [
        [
            math.sqrt((1 if row == 0 else 2) / SIZE_PX)
            * math.cos(math.pi * (2 * column + 1) * row / (2 * SIZE_PX))
            for column in range(SIZE_PX)
        ]
        for row in range(HASH_SIDE)
    ]
    return np.array(rows, np.float32)
