"""The EfficientNet-Lite graphs: real weights, right preprocessing, stable bytes."""

from __future__ import annotations

import io
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from PIL import Image

from twinlens.models.build import build_model
from twinlens.models.build.lite import (
    LITE0,
    LITE2,
    LiteVariant,
    _same_pads,
    build_lite,
    checkpoint_path,
)
from twinlens.models.build.torch_pickle import MAGIC_NUMBER, PROTOCOL_VERSION, read_checkpoint
from twinlens.shared.errors import ModelNotFound

EGYPTIAN_CAT, ESPRESSO = 285, 967


def classify(variant: LiteVariant, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    model = build_lite(variant, with_classifier=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    side = (variant.size_px, variant.size_px)
    pixels = np.array(Image.fromarray(picture).resize(side, Image.Resampling.BICUBIC))
    (probabilities,) = session.run(["probabilities"], {"images": pixels[np.newaxis]})
    row: NDArray[np.float32] = probabilities[0]
    return row


@pytest.mark.parametrize("variant", [LITE0, LITE2], ids=["lite0", "lite2"])
def test_the_network_knows_a_cat_and_an_espresso(variant: LiteVariant) -> None:
    samples = pytest.importorskip("skimage.data", reason="scikit-image has the two photos")

    cat = classify(variant, samples.chelsea())
    cup = classify(variant, samples.coffee())

    # Measured: Lite0 0.771 and 0.900, Lite2 0.752 and 0.866. A wrong pad, stride or scale gives
    # another class or far less.
    assert (int(cat.argmax()), int(cup.argmax())) == (EGYPTIAN_CAT, ESPRESSO)
    assert cat.max() == pytest.approx({LITE0: 0.771, LITE2: 0.752}[variant], abs=0.02)
    assert cup.max() == pytest.approx({LITE0: 0.900, LITE2: 0.866}[variant], abs=0.02)


@pytest.mark.parametrize("name", [f"{LITE0.name}@1", f"{LITE2.name}@1", "phash@1"])
def test_a_build_is_valid_and_repeats_to_the_byte(name: str) -> None:
    model = build_model(name)

    assert model == build_model(name)
    onnx.checker.check_model(model, full_check=True)


def test_an_embedding_has_length_1_and_a_classifier_is_not_shipped() -> None:
    model = build_model("efficientnet-lite0@1")
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    pixels[1] = 0

    (embeddings,) = session.run(None, {"images": pixels})

    assert embeddings.shape == (2, 1280)
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx([1, 1], abs=1e-5)


def test_an_unknown_name_names_the_known() -> None:
    with pytest.raises(ModelNotFound, match="efficientnet-lite0"):
        build_model("resnet")


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"),
    [(224, 3, 2, (0, 1)), (112, 3, 1, (1, 1)), (65, 5, 2, (2, 2)), (56, 5, 2, (1, 2))],
)
def test_same_padding_puts_the_odd_pixel_at_the_end(
    size: int, kernel: int, stride: int, pads: tuple[int, int]
) -> None:
    assert _same_pads(size, kernel, stride) == pads


def old_checkpoint(tensors: Any, storages: dict[str, bytes]) -> bytes:
    head: list[Any] = [MAGIC_NUMBER, PROTOCOL_VERSION, {}, tensors, [*storages]]
    parts = [pickle.dumps(part, 2) for part in head]
    parts += [struct.pack("<q", len(raw) // 4) + raw for raw in storages.values()]
    return b"".join(parts)


def test_the_checkpoint_has_every_tensor_as_float32() -> None:
    tensors = read_checkpoint(checkpoint_path(LITE0))

    assert tensors["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert tensors["_fc.weight"].dtype == np.float32
    # Its strides are TensorFlow's: read as plain rows this would be another filter.
    assert not tensors["_conv_stem.weight"].flags.c_contiguous


def test_a_checkpoint_that_calls_anything_is_refused(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, tuple[str, str]]:
            return (io.open, (str(tmp_path / "written"), "w"))

    path = tmp_path / "weights.pth"
    path.write_bytes(old_checkpoint(OrderedDict(w=Attack()), {}))

    with pytest.raises(pickle.UnpicklingError, match="which weights do not need"):
        read_checkpoint(path)
    assert not (tmp_path / "written").exists()


def test_another_pickle_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({}))

    with pytest.raises(pickle.UnpicklingError, match="not an old-style"):
        read_checkpoint(path)
