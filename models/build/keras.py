"""Exports the networks of keras.applications as ONNX: SavedModel, then `python -m tf2onnx.convert`.

A network's own preprocessing and the L2 norm lie inside the graph. TensorFlow and tf2onnx are
needed to export, never to run: they are the extra `export`, and imported when they are used.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
import socket
import subprocess
import sys
import tempfile
import textwrap
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from twinlens.models.build.lite import OPSET
from twinlens.models.card import Fit, InputSpec, Resample
from twinlens.models.cards import SHIPPED_CARDS
from twinlens.models.pictures import open_picture
from twinlens.models.session import CPU_PROVIDERS, INPUT_NAME, OUTPUT_NAME
from twinlens.models.verify import GOLDEN_DIRECTORY
from twinlens.shared.errors import ModelError, ModelNotFound, ModelRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

IMAGENET, RANDOM = "imagenet", "random"
POOLINGS = ("max", "avg")
# Measured on five networks with random weights: a wrong channel order gives 0.994 or less, a
# wrong scale 0.998, and float32's own rounding 0.9999999 or more.
MIN_COSINE = 0.99999
SMALLEST_PEAK = float(np.finfo(np.float32).tiny)

# Side of the picture that a network was trained on, where it is not 224. Keras tells it of a
# network with its classifier alone, which for VGG16 is 400 MB of weights more.
# Source: `default_size` of each network in keras/src/applications.
_SIZE_PX = {
    "EfficientNetB1": 240,
    "EfficientNetB2": 260,
    "EfficientNetB3": 300,
    "EfficientNetB4": 380,
    "EfficientNetB5": 456,
    "EfficientNetB6": 528,
    "EfficientNetB7": 600,
    "EfficientNetV2B1": 240,
    "EfficientNetV2B2": 260,
    "EfficientNetV2B3": 300,
    "EfficientNetV2L": 480,
    "EfficientNetV2M": 480,
    "EfficientNetV2S": 384,
    "InceptionResNetV2": 299,
    "InceptionV3": 299,
    "NASNetLarge": 331,
    "Xception": 299,
}
_USUAL_SIZE_PX = 224
# How long the download may stand still; Keras itself would wait for ever.
_SILENT_DOWNLOAD_S = 20.0
_TENSORFLOW_LOG = re.compile(r"[IWEF]\d{4} |WARNING: All log messages")


@dataclass(frozen=True)
class KerasExport:
    """An exported network.

    `model` is an ONNX file with input `images` uint8 [N, height, width, 3] RGB and output
    `embedding` float32 [N, dimension], each row of length 1. `cosine` is the lowest cosine to
    Keras over the check pictures, alone and in a batch.
    """

    model: bytes
    input: InputSpec
    dimension: int
    cosine: float


@dataclass(frozen=True)
class _Network:
    name: str
    build: Callable[..., Any]
    preprocess: Callable[[Any], Any]

    @property
    def size_px(self) -> int:
        return _SIZE_PX.get(self.name, _USUAL_SIZE_PX)


def export_keras(
    name: str, *, weights: str | Path = IMAGENET, seed: int = 0, pooling: str = "max"
) -> KerasExport:
    """Exports a network without its classifier, and compares it with Keras on real photos.

    Args:
        name: A network of keras.applications; case, - and _ do not matter.
        weights: "imagenet" downloads Keras's own, "random" draws some; anything else is a file that
            Keras reads: the one that it downloads with `include_top=False`, or one of its
            `save_weights`.
        seed: Seed of the random weights: the same seed gives the same ones. It is set for
            Python's, numpy's and TensorFlow's global generators too.
        pooling: "max" or "avg", over all places of the last feature maps.

    Returns:
        The model. Pictures are squashed to its size, as `keras.utils.load_img` does; bilinear, as
        Keras's other loaders do: `load_img` drops pixels (nearest), which no picture here should.

    Raises:
        ModelError: The extra is missing, the weights are not available or do not fit, or tf2onnx
            fails.
        ModelNotFound: Keras.applications has no such network.
        ModelRefused: The ONNX graph's embeddings are not those of Keras.
    """
    if pooling not in POOLINGS:
        raise ModelError(f"pooling {pooling!r} gives no embedding; pass one of {list(POOLINGS)}")
    # Path.is_file raises on a name that is too long; os.path.isfile says no.
    if weights not in (IMAGENET, RANDOM) and not os.path.isfile(weights):  # noqa: PTH113
        raise ModelError(
            f"there is no weights file {str(weights)!r}; pass a file, {IMAGENET!r} or {RANDOM!r}"
        )
    tf = _import_tensorflow()
    network = _find_network(tf.keras, name)
    keras_model = _build(tf.keras, network, weights, seed, pooling)
    model = _convert(tf, network, keras_model)
    size_px = network.size_px
    spec = InputSpec(width=size_px, height=size_px, resample=Resample.BILINEAR, fit=Fit.SQUASH)
    cosine = _verify(network, keras_model, model, spec)
    return KerasExport(model, spec, int(keras_model.output_shape[-1]), cosine)


def _import_tensorflow() -> Any:
    # What a user's shell or keras.json says must not change the model; TensorFlow reads the
    # first two when it is imported, and so does tf2onnx's process.
    os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
    try:
        with _dropped_stderr():
            tf, _tf2onnx = (import_module(package) for package in ("tensorflow", "tf2onnx"))
            # A network is converted once: a GPU brings nothing, and other rounding.
            with suppress(RuntimeError):  # too late where the process has used TensorFlow before
                tf.config.set_visible_devices([], "GPU")
            tf.config.list_logical_devices()
    except ImportError as error:
        raise ModelError(
            f"exporting from Keras needs TensorFlow and tf2onnx ({_one_line(error)}): "
            "pip install 'twinlens[export]'"
        ) from error
    tf.get_logger().setLevel("ERROR")
    tf.keras.config.disable_interactive_logging()
    tf.keras.config.set_image_data_format("channels_last")
    tf.keras.config.set_floatx("float32")
    return tf


@contextmanager
def _dropped_stderr() -> Iterator[None]:
    """Drops what C++ code writes: TensorFlow's does before it looks at any setting of its."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _find_network(keras: Any, name: str) -> _Network:
    networks = {_plain(network.name): network for network in _networks(keras)}
    network = networks.get(_plain(name))
    if network is None:
        near = difflib.get_close_matches(_plain(name), networks) or sorted(networks)
        names = ", ".join(networks[key].name for key in near)
        raise ModelNotFound(f"keras.applications has no network {name!r}; there is: {names}")
    return network


def _plain(name: str) -> str:
    return re.sub(r"[-_]", "", name).lower()


def _networks(keras: Any) -> Iterator[_Network]:
    for name, build in inspect.getmembers(keras.applications, inspect.isfunction):
        # The module that defines a network defines its preprocessing.
        yield _Network(name, build, sys.modules[build.__module__].preprocess_input)


def _build(keras: Any, network: _Network, weights: str | Path, seed: int, pooling: str) -> Any:
    options = {
        "include_top": False,
        "pooling": pooling,
        "input_shape": (network.size_px, network.size_px, 3),
    }
    if weights == RANDOM:
        keras.utils.set_random_seed(seed)
        return network.build(weights=None, **options)
    if weights == IMAGENET:
        return _download(network, options)
    try:
        with warnings.catch_warnings():
            # Layers that a file does not name keep what they were drawn with, and Keras warns.
            warnings.simplefilter("error", UserWarning)
            return network.build(weights=str(weights), **options)
    except Exception as error:  # Keras and h5py raise many kinds on a file that does not fit
        raise ModelError(
            f"{Path(weights).name} does not hold weights of {network.name} without its classifier "
            f"({_one_line(error)}); pass the file that Keras downloads for it with include_top "
            "False, or one of its save_weights"
        ) from error


def _download(network: _Network, options: dict[str, object]) -> Any:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENT_DOWNLOAD_S)
    try:
        return network.build(weights=IMAGENET, **options)
    except Exception as error:  # Keras raises a plain Exception, whose text names the file
        raise ModelError(
            f"{network.name}: its ImageNet weights are not available ({_one_line(error)}). "
            "Download that file on a machine that can, and pass it as --weights FILE"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _convert(tf: Any, network: _Network, keras_model: Any) -> bytes:
    with tempfile.TemporaryDirectory(prefix="twinlens-keras-") as folder:
        saved, converted = Path(folder, "saved"), Path(folder, "model.onnx")
        _save(tf, network, keras_model, saved)
        _run_tf2onnx(network, saved, converted)
        return _in_one_form(onnx.load(converted))


def _save(tf: Any, network: _Network, keras_model: Any, saved: Path) -> None:
    def embed(images: Any) -> dict[str, Any]:
        vectors = keras_model(network.preprocess(tf.cast(images, tf.float32)), training=False)
        # The largest number becomes 1 first: MobileNet with random weights gives 1e-18, whose
        # square float32 does not hold. A picture that stirs nothing would be 0/0; so it is 0.
        peaks = tf.reduce_max(tf.abs(vectors), axis=1, keepdims=True)
        vectors /= tf.maximum(peaks, SMALLEST_PEAK)
        return {OUTPUT_NAME: vectors / tf.maximum(tf.norm(vectors, axis=1, keepdims=True), 1.0)}

    shape = [None, network.size_px, network.size_px, 3]
    images = tf.TensorSpec(shape, tf.uint8, name=INPUT_NAME)
    module = tf.Module()
    # Its weights are to be saved; of the whole network Keras would add a signature of its own.
    module.weights = [variable.value for variable in keras_model.variables]
    with _inlined_functions(tf):
        signature = tf.function(embed, input_signature=[images]).get_concrete_function()
    tf.saved_model.save(module, str(saved), signatures=signature)


@contextmanager
def _inlined_functions(tf: Any) -> Iterator[None]:
    """Traces into functions. Keras has XLA compile some (ConvNeXt's), and tf2onnx leaves those."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _run_tf2onnx(network: _Network, saved: Path, converted: Path) -> None:
    command = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", str(saved)]
    command += ["--tag", "serve", "--signature_def", "serving_default"]
    command += ["--opset", str(OPSET), "--output", str(converted)]
    done = subprocess.run(  # noqa: S603 (the command is ours)
        command,
        # -m looks for modules in the working directory first: not in the user's.
        cwd=saved.parent,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0 or not converted.exists():
        raise ModelError(f"tf2onnx cannot convert {network.name}: {_last_words(done)}")


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        # EfficientNetV2L, of 480 MB, took it 15.7 GB.
        return f"it was ended by signal {-done.returncode}; did it run out of memory?"
    lines = [line.strip() for line in done.stderr.splitlines()]
    said = [line for line in lines if line and not _TENSORFLOW_LOG.match(line)]
    return _one_line(said[-1]) if said else f"it ended with status {done.returncode}"


def _in_one_form(model: onnx.ModelProto) -> bytes:
    model.graph.doc_string = ""  # tf2onnx writes the temporary directory into it
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    _spell_erfc(model.graph)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _spell_erfc(graph: onnx.GraphProto) -> None:
    """Makes TensorFlow's Erfc 1 - Erf: tf2onnx hands it on (in ConvNeXt), and ONNX has none."""
    for index, node in reversed([*enumerate(graph.node)]):
        if node.op_type == "Erfc":
            erfc = node.output[0]
            one, erf = f"{erfc}/one", f"{erfc}/erf"
            node.op_type, node.output[0] = "Erf", erf
            graph.node.insert(index + 1, helper.make_node("Sub", [one, erf], [erfc]))
            graph.node.insert(index, helper.make_node("Constant", [], [one], value_float=1.0))


def _verify(network: _Network, keras_model: Any, model: bytes, spec: InputSpec) -> float:
    cosine = _lowest_cosine(network, keras_model, model, spec)
    # Not `cosine < MIN_COSINE`: that is false for a NaN.
    if not cosine >= MIN_COSINE:
        raise ModelRefused(
            f"{network.name}: the exported model's embeddings have a cosine of {cosine:.6f} to "
            f"those of Keras; at least {MIN_COSINE} is needed. Try other weights, or another "
            "version of tf2onnx"
        )
    return cosine


def _lowest_cosine(network: _Network, keras_model: Any, model: bytes, spec: InputSpec) -> float:
    pixels = _check_pictures(spec)
    expected = np.asarray(keras_model(network.preprocess(pixels.astype(np.float32))), np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    session = _open(network, model)
    batches = [pixels, *(pixels[i : i + 1] for i in range(len(pixels)))]
    embeddings = [session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0] for batch in batches]
    away = np.concatenate(embeddings) - np.concatenate([expected, expected])
    # Of two vectors of length 1 this is the cosine. Of any other length it is less.
    return float((1.0 - (away**2).sum(axis=1) / 2.0).min())


def _open(network: _Network, model: bytes) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(model, providers=list(CPU_PROVIDERS))
    except Exception as error:  # onnxruntime has no common base of its errors
        raise ModelRefused(
            f"{network.name}: onnxruntime cannot open what tf2onnx made ({_one_line(error)}); "
            "try another version of tf2onnx"
        ) from error


def _check_pictures(spec: InputSpec) -> NDArray[np.uint8]:
    """The golden photos, as they are and turned by half: uint8 [4, height, width, 3]."""
    photos = np.stack(
        [
            open_picture(path.read_bytes(), wanted_px=spec.wanted_px).pixels_for(spec)
            for path in sorted((SHIPPED_CARDS / GOLDEN_DIRECTORY).glob("*.png"))
        ]
    )
    return np.concatenate([photos, photos[:, ::-1, ::-1]])


def _one_line(problem: object) -> str:
    return textwrap.shorten(str(problem), 300, placeholder="…")
