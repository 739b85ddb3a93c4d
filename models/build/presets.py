"""The arithmetic from pixels to what a network takes: the known kinds, in numpy and as nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from twinlens.models.build.nodes import Attribute, make_node
from twinlens.models.card import Fit, Resample, Resizing
from twinlens.models.session import INPUT_NAME
from twinlens.shared.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from onnx import GraphProto

    from twinlens.models.session import Pixels

Layout = Literal["nchw", "nhwc"]
Channels = Literal["rgb", "bgr"]
PerChannel = tuple[float, float, float]

_NO_MEAN, _NO_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Preprocessing:
    """What a network wants done to pixels of 0 to 255: (pixel * scale - mean) / std.

    Caffe's own `scale` comes after its mean; that is 1 / std here.

    Attributes:
        layout: nchw for [N, 3, H, W], as PyTorch and Caffe have it; nhwc for [N, H, W, 3], as
            TensorFlow has it.
        channels: The order of the channels in the network's input, and so in `mean` and `std`.
        scale: What every pixel is multiplied by.
        mean: What is subtracted after scaling, one number per channel.
        std: What is divided by, one number per channel.
    """

    layout: Layout
    channels: Channels
    scale: float
    mean: PerChannel
    std: PerChannel

    def __post_init__(self) -> None:
        """Refuses what would make every picture alike, infinite or unknown.

        Raises:
            ModelError: A number is not finite, scale or std is 0, or a word is not known.
        """
        if self.layout not in ("nchw", "nhwc") or self.channels not in ("rgb", "bgr"):
            raise ModelError(
                f"layout {self.layout!r} with channels {self.channels!r}: pass --layout nchw or "
                "nhwc, and --channels rgb or bgr"
            )
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ModelError(
                f"mean {self.mean} and std {self.std}: pass three numbers each, one per channel "
                f"in the order {self.channels}"
            )
        numbers = (self.scale, *self.mean, *self.std)
        if not all(map(isfinite, numbers)) or 0.0 in (self.scale, *self.std):
            raise ModelError(
                f"scale {self.scale}, mean {self.mean} and std {self.std} must be finite, and "
                "scale and std not 0; pass --scale, --mean and --std anew"
            )

    @property
    def is_identity(self) -> bool:
        """Whether pixels keep their values, as a network of uint8 wants them."""
        return self.scale == 1.0 and tuple(self.mean) == _NO_MEAN and tuple(self.std) == _NO_STD

    def apply(self, pixels: Pixels) -> NDArray[np.float32]:
        """Does in numpy what `add_preprocessing` does in a graph.

        Args:
            pixels: uint8 [n, height, width, 3], RGB.

        Returns:
            float32 [n, 3, height, width] or [n, height, width, 3], as `layout` says.
        """
        ordered = pixels if self.channels == "rgb" else pixels[..., ::-1]
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        values = (ordered.astype(np.float32) * np.float32(self.scale) - mean) / std
        return values.transpose(0, 3, 1, 2) if self.layout == "nchw" else values


class Preset(NamedTuple):
    """What a framework does to a picture: how it is resized, then the arithmetic on its pixels."""

    preprocessing: Preprocessing
    resizing: Resizing


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# `preprocess_input` resizes nothing, and `keras.utils.load_img` squashes, by the nearest pixel.
# That drops pixels; Keras's other loaders are bilinear, and so is `export` (keras.py).
_KERAS = Resizing(resample=Resample.BILINEAR, fit=Fit.SQUASH)
# Sources:
#   torchvision   torchvision/transforms/_presets.py, `ImageClassification` with its defaults:
#                 bilinear, the shorter side to 256, the middle, pixels / 255, then the mean and
#                 deviation of ImageNet. So are the weights IMAGENET1K_V1 of most networks of 224
#                 pixels. Others have a `resize_size` or an `interpolation` of their own: V2 of
#                 ResNet-50 and most others of 2021 on have 232.
#   caffe         BVLC, examples/imagenet/create_imagenet.sh: squashed to 256 x 256;
#                 models/bvlc_googlenet/train_val.prototxt, `transform_param`: the middle,
#                 mean_value 104, 117, 123, no scale. Yahoo's open_nsfw does the same, bilinear.
#   tf            keras/src/applications/imagenet_utils.py, mode "tf": x / 127.5 - 1.
#   keras-caffe   the same file, mode "caffe": RGB to BGR, then the mean of VGG's authors.
#   keras-torch   the same file, mode "torch": as torchvision.
# The layout is that of the framework; what went through a converter may have another.
PRESETS: dict[str, Preset] = {
    "torchvision": Preset(
        Preprocessing("nchw", "rgb", 1 / 255, _IMAGENET_MEAN, _IMAGENET_STD),
        Resizing(resample=Resample.BILINEAR, fit=Fit.CROP, resized_px=256),
    ),
    "caffe": Preset(
        Preprocessing("nchw", "bgr", 1.0, (104.0, 117.0, 123.0), _NO_STD),
        Resizing(resample=Resample.BILINEAR, fit=Fit.SQUASH, resized_px=256),
    ),
    "tf": Preset(Preprocessing("nhwc", "rgb", 1 / 127.5, (1.0, 1.0, 1.0), _NO_STD), _KERAS),
    "keras-caffe": Preset(
        Preprocessing("nhwc", "bgr", 1.0, (103.939, 116.779, 123.68), _NO_STD), _KERAS
    ),
    "keras-torch": Preset(
        Preprocessing("nhwc", "rgb", 1 / 255, _IMAGENET_MEAN, _IMAGENET_STD), _KERAS
    ),
}


@dataclass(frozen=True)
class _Step:
    kind: str
    constant: NDArray[np.generic] | None = None
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


def add_preprocessing(
    graph: GraphProto, preprocessing: Preprocessing, dtype: int, output: str
) -> None:
    """Adds the nodes from `images` to a network's input.

    Args:
        graph: Gets nodes and initializers whose names all begin with "pixels/".
        preprocessing: What they do.
        dtype: The input's type, as `TensorProto` numbers it. For UINT8 only the order and the
            layout change.
        output: Name of the network's input, which the last of the nodes gives.
    """
    steps = list(_steps(preprocessing, dtype)) or [_Step("Identity")]
    tensor = INPUT_NAME
    for number, step in enumerate(steps, start=1):
        inputs = [tensor]
        if step.constant is not None:
            inputs.append(f"pixels/constant{number}")
            graph.initializer.append(numpy_helper.from_array(step.constant, inputs[1]))
        tensor = output if number == len(steps) else f"pixels/{step.kind.lower()}{number}"
        name = f"pixels/node{number}"
        graph.node.append(make_node(step.kind, inputs, tensor, name, **step.attributes))


def _steps(preprocessing: Preprocessing, dtype: int) -> Iterator[_Step]:
    # Order and layout first, while a pixel is one byte.
    is_nchw = preprocessing.layout == "nchw"
    if is_nchw:
        yield _Step("Transpose", attributes={"perm": [0, 3, 1, 2]})
    if preprocessing.channels == "bgr":
        axis = 1 if is_nchw else 3
        yield _Step("Gather", np.array([2, 1, 0], np.int64), {"axis": axis})
    if dtype == TensorProto.UINT8:
        return
    yield _Step("Cast", attributes={"to": TensorProto.FLOAT})
    yield from _arithmetic(preprocessing, (3, 1, 1) if is_nchw else (3,))
    if dtype != TensorProto.FLOAT:
        yield _Step("Cast", attributes={"to": dtype})


def _arithmetic(preprocessing: Preprocessing, shape: tuple[int, ...]) -> Iterator[_Step]:
    if preprocessing.scale != 1.0:
        yield _Step("Mul", np.array(preprocessing.scale, np.float32))
    if tuple(preprocessing.mean) != _NO_MEAN:
        yield _Step("Sub", np.array(preprocessing.mean, np.float32).reshape(shape))
    if tuple(preprocessing.std) != _NO_STD:
        yield _Step("Div", np.array(preprocessing.std, np.float32).reshape(shape))
