"""What is done to a picture: as transformers' own image processors do it, on odd sizes."""

from __future__ import annotations

import importlib
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.repositories import CLIP_PIXELS, SIGLIP_PIXELS

from twinlens.models.card import InputSpec, Offset
from twinlens.models.pictures import open_picture
from twinlens.models.pull.pixels import Preparation, read_open_clip, read_processor
from twinlens.shared.errors import ModelError

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
# As the repositories of the models that are offered have them, and in the forms of older ones.
PROCESSORS: dict[str, dict[str, Any]] = {
    "clip": CLIP_PIXELS
    | {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}},
    "clip, older": {
        "crop_size": 224,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "resample": 3,
        "size": 224,
    },
    "siglip2": SIGLIP_PIXELS | {"size": {"height": 256, "width": 256}},
    "siglip, not square": SIGLIP_PIXELS | {"size": {"height": 196, "width": 230}},
    "dinov2": {
        **CLIP_PIXELS,
        **IMAGENET,
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 256},
        "crop_size": {"height": 224, "width": 224},
    },
    "resnet": {
        **IMAGENET,
        "crop_pct": 0.875,
        "do_normalize": True,
        "do_resize": True,
        "image_processor_type": "ConvNextFeatureExtractor",
        "resample": 3,
        "size": {"shortest_edge": 224},
    },
    "convnext, squashed": {
        **IMAGENET,
        "crop_pct": 0.875,
        "image_processor_type": "ConvNextImageProcessor",
        "resample": 3,
        "size": {"shortest_edge": 384},
    },
    "mobileclip": {
        "crop_size": {"height": 256, "width": 256},
        "do_center_crop": True,
        "do_normalize": False,
        "do_rescale": True,
        "do_resize": True,
        "image_processor_type": "CLIPFeatureExtractor",
        "resample": 2,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 256},
    },
    "mobilevit": {
        "crop_size": {"height": 256, "width": 256},
        "do_center_crop": True,
        "do_flip_channel_order": True,
        "do_rescale": True,
        "do_resize": True,
        "image_processor_type": "MobileViTImageProcessor",
        "resample": 2,
        "size": {"shortest_edge": 288},
    },
    "deit": {"image_processor_type": "DeiTImageProcessor", **IMAGENET},
    "vit, older": {"feature_extractor_type": "ViTFeatureExtractor", "resample": 2, "size": 224},
    "of bytes": SIGLIP_PIXELS
    | {"size": {"height": 256, "width": 256}, "do_rescale": False, "do_normalize": False},
}
SIZES = ((301, 227), (640, 481), (226, 333), (57, 171), (224, 224), (777, 225))


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def prepared(pixels: Preparation, image: Image.Image) -> Any:
    """What a network is given: float32 [3, height, width]."""
    content = io.BytesIO()
    image.save(content, "PNG")
    resizing = pixels.preset.resizing.model_dump()
    spec = InputSpec(width=pixels.width, height=pixels.height, **resizing)
    resized = open_picture(content.getvalue(), wanted_px=spec.wanted_px).pixels_for(spec)
    return pixels.preset.preprocessing.apply(resized[np.newaxis])[0]


MODULES = {
    "CLIP": "clip",
    "ChineseCLIP": "chinese_clip",
    "Bit": "bit",
    "ViT": "vit",
    "Siglip": "siglip",
    "DeiT": "deit",
    "ConvNext": "convnext",
    "MobileNetV1": "mobilenet_v1",
    "MobileNetV2": "mobilenet_v2",
    "MobileViT": "mobilevit",
}
# What each does where its file says nothing. MobileViT's would be a black edge, which is refused.
PROCESSORS |= {
    f"{kind}, its own": {"image_processor_type": f"{kind}ImageProcessor"}
    for kind in MODULES
    if kind != "MobileViT"
}


def transformers_class(fields: dict[str, Any]) -> Any:
    """The class of transformers that needs no torch."""
    name = fields.get("image_processor_type") or fields["feature_extractor_type"]
    kind = name.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    module = f"transformers.models.{MODULES[kind]}.image_processing_pil_{MODULES[kind]}"
    return getattr(importlib.import_module(module), f"{kind}ImageProcessorPil")


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_transformers(name: str, size: tuple[int, int]) -> None:
    fields = PROCESSORS[name]
    pixels = read_processor("preprocessor_config.json", fields)
    processor = transformers_class(fields)(**fields)
    expected = processor(picture(*size), return_tensors="np")["pixel_values"][0]
    # In parts of what a pixel may be, before the mean and the deviation.
    std = np.array(pixels.preset.preprocessing.std)[:, np.newaxis, np.newaxis]
    away = np.abs(prepared(pixels, picture(*size)) - expected) * std
    assert away.max() <= pixels.preset.preprocessing.scale


def test_of_a_crop_that_is_off_by_a_pixel_it_can_be_told() -> None:
    # What the tolerance above is worth: the other rounding of the middle is seen.
    pixels = read_processor("preprocessor_config.json", PROCESSORS["dinov2"])
    resizing = pixels.preset.resizing.model_copy(update={"offset": Offset.ROUND})
    other = pixels._replace(preset=pixels.preset._replace(resizing=resizing))
    image = picture(301, 227)
    assert np.abs(prepared(pixels, image) - prepared(other, image)).max() > 0.1


def test_open_clips_preprocessing_is_read() -> None:
    squashed: Any = {
        "size": [96, 130],
        "mode": "RGB",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    squashed |= {"interpolation": "bicubic", "resize_mode": "squash", "fill_color": 0}
    pixels = read_open_clip("preprocess_cfg.json", squashed)
    image = picture(301, 227)
    resized = np.asarray(image.resize((130, 96), Image.Resampling.BICUBIC), np.float32)
    expected = ((resized / 255 - 0.5) / 0.5).transpose(2, 0, 1)
    assert np.abs(prepared(pixels, image) - expected).max() <= 1 / 255
    # Some have it under transformers' name, with a class of their own.
    named = squashed | {"image_processor_type": "JinaCLIPImageProcessor"}
    assert read_processor("preprocessor_config.json", named) == pixels
    # Older files do not say how, and mean the shorter side.
    pixels = read_open_clip("preprocess_cfg.json", {"size": 128})
    larger = image.resize((int(128 * 301 / 227), 128), Image.Resampling.BICUBIC)
    left = round((larger.width - 128) / 2)
    cut = np.asarray(larger.crop((left, 0, left + 128, 128)), np.float32) / 255
    mean, std = pixels.preset.preprocessing.mean, pixels.preset.preprocessing.std
    expected = ((cut - mean) / std).transpose(2, 0, 1)
    assert np.abs(prepared(pixels, image) - expected).max() <= 1 / 255


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_processor_type": "OwnProcessor"}, "'OwnProcessor', and known are CLIPImage"),
        ({"image_processor_type": None}, "for 'no class'"),
        (
            {"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "own.Own"}},
            "code of its own, which is never run",
        ),
        # NaFlex: patches, and no picture.
        ({"image_processor_type": "Siglip2ImageProcessor"}, "'Siglip2ImageProcessor'"),
        ({"do_resize": False}, "do_resize is false"),
        ({"do_center_crop": False}, "no crop does not give every picture one shape"),
        ({"size": {"shortest_edge": 32, "longest_edge": 64}}, "does not give every picture"),
        ({"size": "large"}, "size has 'large', and whole pixels"),
        ({"size": {"shortest_edge": 4}}, "resized_px: Input should be greater"),
        ({"image_mean": [0.5, 0.5]}, "image_mean has 2 numbers"),
        ({"image_std": ["a", "b", "c"]}, "image_std is 'a', and a number"),
        ({"resample": 0}, "resample: Input should be 'bilinear', 'bicubic' or 'lanczos'"),
    ],
)
def test_what_cannot_be_done_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError) as refused:
        read_processor("preprocessor_config.json", CLIP_PIXELS | changes)
    assert words in str(refused.value)
    assert "`twinlens models add`" in str(refused.value)


def test_open_clips_padding_is_refused() -> None:
    with pytest.raises(ModelError, match="resize_mode 'longest'"):
        read_open_clip("preprocess_cfg.json", {"size": 224, "resize_mode": "longest"})
