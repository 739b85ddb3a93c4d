"""Reads what is done to a picture from the files beside a network.

Two kinds: `preprocessor_config.json` of transformers, whose older versions leave out what the class
that it names had by default, and `preprocess_cfg.json` of open_clip, as Immich keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from pydantic import JsonValue, ValidationError

from twinlens.models.build.presets import Channels, PerChannel, Preprocessing, Preset
from twinlens.models.card import Fit, Offset, Resample, Resizing, describe_faults
from twinlens.shared.errors import ModelError

Fields: TypeAlias = Mapping[str, JsonValue]

_NOTHING = Preprocessing("nchw", "rgb", 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_CLIP_MEAN: list[JsonValue] = [0.48145466, 0.4578275, 0.40821073]
_CLIP_STD: list[JsonValue] = [0.26862954, 0.26130258, 0.27577711]
_HALF: list[JsonValue] = [0.5, 0.5, 0.5]

# Numbers of Pillow's filters.
_FILTERS = {2: Resample.BILINEAR, 3: Resample.BICUBIC, 1: Resample.LANCZOS}

# What each class of transformers does where its file says nothing, and what `size` is that is a
# single number. Source: `image_processing_*.py` of transformers, 4.26 for the number.
_SHORTER: Fields = {"do_center_crop": True, "crop_size": 224, "size": {"shortest_edge": 224}}
_CLIP: Fields = {**_SHORTER, "resample": 3, "image_mean": _CLIP_MEAN, "image_std": _CLIP_STD}
_STANDARD: Fields = {"resample": 3, "image_mean": _HALF, "image_std": _HALF}
_MOBILE: Fields = {**_SHORTER, **_STANDARD, "size": {"shortest_edge": 256}, "resample": 2}
_CLASSES: dict[str, Fields] = {
    "CLIP": _CLIP,
    "ChineseCLIP": _CLIP,
    "Bit": _CLIP,
    "ViT": {**_STANDARD, "size": {"height": 224, "width": 224}, "resample": 2},
    "Siglip": {**_STANDARD, "size": {"height": 224, "width": 224}},
    "DeiT": {
        **_STANDARD,
        "size": {"height": 256, "width": 256},
        "do_center_crop": True,
        "crop_size": 224,
    },
    "ConvNext": {**_STANDARD, "size": {"shortest_edge": 384}, "crop_pct": 0.875},
    "MobileNetV1": _MOBILE,
    "MobileNetV2": _MOBILE,
    "MobileViT": {
        **_SHORTER,
        "crop_size": 256,
        "resample": 2,
        "do_normalize": False,
        "do_flip_channel_order": True,
    },
}
_ENDINGS = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")
# From so many pixels on, a ConvNext's picture is squashed.
_CONVNEXT_SQUASHED_PX = 384


class Preparation(NamedTuple):
    """What is done to a picture, and how large it is then."""

    preset: Preset
    width: int
    height: int


def read_processor(name: str, fields: Fields) -> Preparation:
    """Reads a `preprocessor_config.json` of transformers.

    Raises:
        ModelError: The class that it names is not known, or it asks for what cannot be done.
    """
    if "resize_mode" in fields:  # open_clip's keys, as Jina's files have them
        return read_open_clip(name, fields)
    kind = _kind(name, fields)
    said = {**_CLASSES[kind], **_renamed(fields)}
    if said.get("do_resize") is False:
        raise _refused(name, "do_resize is false, and pictures are of any size")
    resizing, width, height = _resized(name, kind, said)
    return _pixels(name, said, {**resizing, "offset": Offset.FLOOR}, (width, height))


def read_open_clip(name: str, fields: Fields) -> Preparation:
    """Reads a `preprocess_cfg.json` of open_clip.

    Raises:
        ModelError: It asks for what cannot be done.
    """
    size, mode = fields.get("size", 224), fields.get("resize_mode", "shortest")
    sides = size if isinstance(size, Sequence) and not isinstance(size, str) else [size, size]
    height, width = (_px(name, "size", side) for side in sides)
    if fields.get("mode", "RGB") != "RGB" or mode not in ("shortest", "squash"):
        raise _refused(name, f"mode {fields.get('mode')!r} with resize_mode {mode!r}")
    resizing: dict[str, object] = {"fit": Fit.SQUASH}
    if mode == "shortest":
        resizing = {"fit": Fit.CROP, "resized_px": max(height, width)}
    said: dict[str, JsonValue] = {
        "resample": str(fields.get("interpolation", "bicubic")).lower(),
        "image_mean": fields.get("mean", [*_CLIP_MEAN]),
        "image_std": fields.get("std", [*_CLIP_STD]),
    }
    return _pixels(name, said, resizing, (width, height))


def _kind(name: str, fields: Fields) -> str:
    named = fields.get("image_processor_type") or fields.get("feature_extractor_type") or ""
    kind = str(named)
    for ending in _ENDINGS:
        kind = kind.removesuffix(ending)
    if kind in _CLASSES:
        return kind
    own = "; it comes with code of its own, which is never run" if "auto_map" in fields else ""
    known = ", ".join(f"{one}ImageProcessor" for one in _CLASSES)
    raise _refused(name, f"it is for {str(named) or 'no class'!r}, and known are {known}{own}")


def _renamed(fields: Fields) -> dict[str, JsonValue]:
    """Gives older names their present ones; what is null is as if it were not there."""
    said: dict[str, JsonValue] = {key: value for key, value in fields.items() if value is not None}
    for old, new in (("mean", "image_mean"), ("std", "image_std")):
        if old in said:
            said.setdefault(new, said[old])
    return said


def _resized(name: str, kind: str, said: Fields) -> tuple[dict[str, object], int, int]:
    """Returns how a picture is resized, and its width and height then."""
    size = _size(name, kind, said["size"])
    if kind == "ConvNext" and "shortest_edge" in size:
        side = size["shortest_edge"]
        if side >= _CONVNEXT_SQUASHED_PX:
            return {"fit": Fit.SQUASH}, side, side
        resized_px = int(side / _number(name, "crop_pct", said["crop_pct"]))
        return {"fit": Fit.CROP, "resized_px": resized_px}, side, side
    cropped = _size(name, "ViT", said["crop_size"]) if said.get("do_center_crop") else None
    if size.keys() == {"shortest_edge"} and cropped is not None:
        fit = {"fit": Fit.CROP, "resized_px": size["shortest_edge"]}
        return fit, cropped["width"], cropped["height"]
    if size.keys() == {"height", "width"}:
        if cropped in (None, size):
            return {"fit": Fit.SQUASH}, size["width"], size["height"]
        if cropped is not None and size["width"] == size["height"]:
            fit = {"fit": Fit.SQUASH, "resized_px": size["width"]}
            return fit, cropped["width"], cropped["height"]
    crop = f"a crop to {cropped}" if cropped else "no crop"
    raise _refused(name, f"size {dict(size)} with {crop} does not give every picture one shape")


def _size(name: str, kind: str, size: JsonValue) -> dict[str, int]:
    if isinstance(size, dict):
        return {key: _px(name, "size", side) for key, side in size.items() if side is not None}
    if isinstance(size, list) and len(size) == 2:
        return {"height": _px(name, "size", size[0]), "width": _px(name, "size", size[1])}
    px = _px(name, "size", size)
    is_shorter = "shortest_edge" in _keys(_CLASSES[kind]["size"])
    return {"shortest_edge": px} if is_shorter else {"height": px, "width": px}


def _keys(size: JsonValue) -> Sequence[str]:
    return [*size] if isinstance(size, dict) else []


def _pixels(
    name: str, said: Fields, resizing: Mapping[str, object], size: tuple[int, int]
) -> Preparation:
    try:
        resized = Resizing.model_validate({**resizing, "resample": _filter(said["resample"])})
    except ValidationError as error:
        raise _refused(name, "; ".join(describe_faults(error))) from error
    return Preparation(Preset(_arithmetic(name, said), resized), *size)


def _filter(said: JsonValue) -> object:
    return _FILTERS.get(said, said) if isinstance(said, int) else said


def _arithmetic(name: str, said: Fields) -> Preprocessing:
    scale, mean, std = 1.0, _NOTHING.mean, _NOTHING.std
    if said.get("do_rescale", True):
        scale = _number(name, "rescale_factor", said.get("rescale_factor", 1 / 255))
    if said.get("do_normalize", True):
        mean = _triple(name, "image_mean", said["image_mean"])
        std = _triple(name, "image_std", said["image_std"])
    channels: Channels = "bgr" if said.get("do_flip_channel_order") else "rgb"
    return Preprocessing("nchw", channels, scale, mean, std)


def _triple(name: str, key: str, said: JsonValue) -> PerChannel:
    numbers = said if isinstance(said, list) else [said] * 3
    if len(numbers) != 3:
        raise _refused(name, f"{key} has {len(numbers)} numbers, and a picture 3 channels")
    red, green, blue = (_number(name, key, each) for each in numbers)
    return red, green, blue


def _number(name: str, key: str, said: JsonValue) -> float:
    if isinstance(said, bool) or not isinstance(said, int | float):
        raise _refused(name, f"{key} is {said!r}, and a number is expected")
    return float(said)


def _px(name: str, key: str, said: JsonValue) -> int:
    if isinstance(said, bool) or not isinstance(said, int):
        raise _refused(name, f"{key} has {said!r}, and whole pixels are expected")
    return said


def _refused(name: str, reason: str) -> ModelError:
    return ModelError(
        f"{name}: {reason}. Fetch the ONNX file and pass it to `twinlens models add`, with what "
        "the network wants as --resize, --fit, --resize-to, --scale, --mean and --std"
    )
