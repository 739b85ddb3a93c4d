"""Networks of Keras as ONNX: Keras's own embeddings, and errors of one line."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from support import photos

from twinlens.models.build import keras as build_keras
from twinlens.models.build.keras import KerasExport, export_keras
from twinlens.models.card import Card, Fit, OutputKind, Resample
from twinlens.models.distances import Metric
from twinlens.models.session import OnnxEmbedder
from twinlens.shared.errors import ModelError, ModelNotFound, ModelRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SEED = 7
# Networks that are large are exported for small pictures: nine places are enough to pool over.
SMALL_PX = 96
SIZES_PX = {"resnet50": SMALL_PX, "vgg16": SMALL_PX, "mobilenet": 224}
# numpy says so of TensorFlow's own arrays, when Keras writes weights.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@dataclass(frozen=True)
class Exported:
    """A network of Keras, and what became of it."""

    keras_model: Any
    preprocess: Any
    export: KerasExport
    size_px: int
    left_behind: list[Path]

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """Five photos that the exporter does not look at."""
        size = (self.export.input.width, self.export.input.height)
        return np.stack([np.asarray(photos.source(name).resize(size)) for name in photos.SOURCES])

    @cached_property
    def together(self) -> NDArray[Any]:
        return self.embedder.embed_batch(self.pixels)

    @cached_property
    def alone(self) -> NDArray[Any]:
        return np.concatenate([self.embedder.embed_batch(self.pixels[i : i + 1]) for i in range(5)])

    def expect(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        vectors = self.keras_model.predict(self.preprocess(pixels.astype(np.float32)), verbose=0)
        exact = vectors.astype(np.float64)
        unit: NDArray[np.float64] = exact / np.linalg.norm(exact, axis=1, keepdims=True)
        return unit

    @cached_property
    def embedder(self) -> OnnxEmbedder:
        card = Card(
            name="network",
            version="1",
            title="a network",
            file="network-1.onnx",
            sha256="0" * 64,
            output=OutputKind.FLOAT32,
            dimension=self.export.dimension,
            metric=Metric.L2,
            licence="none",
            source="a test",
            input=self.export.input,
        )
        return OnnxEmbedder(card, self.export.model, batch_size=8)


@pytest.fixture(scope="module")
def tf() -> Any:
    reason = "the extra 'export' is not installed"
    tensorflow = pytest.importorskip("tensorflow", reason=reason)
    pytest.importorskip("tf2onnx", reason=reason)
    return tensorflow


def resnet50(tf: Any, folder: Path) -> tuple[Any, Any, KerasExport]:
    applications = tf.keras.applications
    tf.keras.utils.set_random_seed(SEED)
    model = applications.ResNet50(
        include_top=False, pooling="max", weights=None, input_shape=(SMALL_PX, SMALL_PX, 3)
    )
    export = export_keras("ResNet-50", weights="random", seed=SEED)
    return model, applications.resnet50.preprocess_input, export


def vgg16(tf: Any, folder: Path) -> tuple[Any, Any, KerasExport]:
    applications = tf.keras.applications
    model = applications.VGG16(
        include_top=False, pooling="max", weights=None, input_shape=(SMALL_PX, SMALL_PX, 3)
    )
    write_as_downloaded(model, folder / "vgg16_weights_notop.h5")
    export = export_keras("vgg_16", weights=folder / "vgg16_weights_notop.h5")
    return model, applications.vgg16.preprocess_input, export


def mobilenet(tf: Any, folder: Path) -> tuple[Any, Any, KerasExport]:
    applications = tf.keras.applications
    model = applications.MobileNet(
        include_top=False, pooling="avg", weights=None, input_shape=(224, 224, 3)
    )
    give_statistics(tf, model)
    blind_to_black(tf, model)
    model.save_weights(folder / "trained.weights.h5")
    export = export_keras("MobileNet", weights=folder / "trained.weights.h5", pooling="avg")
    return model, applications.mobilenet.preprocess_input, export


def write_as_downloaded(model: Any, path: Path) -> None:
    """Writes weights in the form of the files that Keras downloads (HDF5 of Keras 2)."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            weights = {f"{weight.name}:0": weight for weight in layer.weights}
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, weight in weights.items():
                group.create_dataset(name, data=weight.numpy())


def give_statistics(tf: Any, model: Any) -> None:
    """Gives batch normalisation what training would: real statistics, other scales and shifts."""
    rng = np.random.default_rng(SEED)
    norms = [layer for layer in model.layers if hasattr(layer, "moving_mean")]
    for layer in norms:
        layer.momentum = 0.0
        layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
        layer.beta.assign(rng.normal(0.0, 0.2, layer.beta.shape))
    model(rng.uniform(-1, 1, (4, 224, 224, 3)).astype(np.float32), training=True)


def blind_to_black(tf: Any, model: Any) -> None:
    """Moves the last normalisation so far that nothing in a black picture passes the ReLU."""
    last = model.get_layer("conv_pw_13")
    black = np.full((1, 224, 224, 3), -1.0, np.float32)
    maps = tf.keras.Model(model.input, last.output)(black).numpy()
    norm = model.get_layer("conv_pw_13_bn")
    margin = 0.1 * np.sqrt(norm.moving_variance.numpy())
    norm.moving_mean.assign(maps.max(axis=(0, 1, 2)) + margin)
    norm.beta.assign(np.zeros(norm.beta.shape))


NETWORKS = {"resnet50": resnet50, "vgg16": vgg16, "mobilenet": mobilenet}
DIMENSIONS = {"resnet50": 2048, "vgg16": 512, "mobilenet": 1024}


@pytest.fixture(scope="module", params=NETWORKS)
def exported(
    request: pytest.FixtureRequest, tf: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exported]:
    temporary = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temporary))
        for name in ("ResNet50", "VGG16"):
            patch.setitem(build_keras._SIZE_PX, name, SMALL_PX)
        model, preprocess, export = NETWORKS[request.param](tf, tmp_path_factory.mktemp("weights"))
    assert export.dimension == DIMENSIONS[request.param]
    # TensorFlow removes its own as the process ends.
    left = [path for path in temporary.iterdir() if "__autograph_generated" not in path.name]
    yield Exported(model, preprocess, export, SIZES_PX[request.param], left)
    tf.keras.backend.clear_session()


def test_embeddings_are_those_of_keras(exported: Exported) -> None:
    one, five = exported.pixels[:1], exported.pixels

    # Measured: 1e-7. Two of the photos are 0.1 or more apart.
    assert np.abs(exported.alone[:1] - exported.expect(one)).max() < 1e-5
    assert np.abs(exported.together - exported.expect(five)).max() < 1e-5
    assert np.linalg.norm(exported.together, axis=1) == pytest.approx(np.ones(5), abs=1e-5)


def test_pictures_of_a_batch_do_not_mix(exported: Exported) -> None:
    together = exported.together
    distances = np.linalg.norm(together[:, np.newaxis] - together, axis=2)

    assert np.abs(together - exported.alone).max() < 1e-5
    assert distances[np.triu_indices(5, k=1)].min() > 0.1


def test_an_export_was_verified_and_leaves_nothing_behind(exported: Exported) -> None:
    assert 0.99999 <= exported.export.cosine <= 1.0
    assert exported.left_behind == []
    assert b"twinlens-keras-" not in exported.export.model


def test_pictures_are_squashed_bilinearly_to_the_networks_size(exported: Exported) -> None:
    spec = exported.export.input

    assert (spec.width, spec.height, spec.fit) == (exported.size_px, exported.size_px, Fit.SQUASH)
    assert spec.resample is Resample.BILINEAR


@pytest.mark.parametrize("exported", ["mobilenet"], indirect=True)
def test_a_picture_that_stirs_nothing_gives_zeros(exported: Exported) -> None:
    embeddings = exported.embedder.embed_batch(np.zeros((1, 224, 224, 3), np.uint8))

    assert not embeddings.any()


@pytest.mark.parametrize("exported", ["mobilenet"], indirect=True)
def test_a_graph_of_other_weights_is_refused(exported: Exported, tf: Any) -> None:
    network = build_keras._find_network(tf.keras, "mobilenet")
    other = build_keras._build(tf.keras, network, "random", SEED, "avg")

    with pytest.raises(
        ModelRefused, match=r"cosine of 0\.\d+ to those of Keras; at least 0\.99999"
    ):
        build_keras._verify(network, other, exported.export.model, exported.export.input)


@pytest.mark.parametrize(
    ("name", "keras_name", "size_px"),
    [
        ("VGG-19", "VGG19", 224),
        ("inception_v3", "InceptionV3", 299),
        ("efficientnetv2-b1", "EfficientNetV2B1", 240),
        ("MOBILENET-V3-SMALL", "MobileNetV3Small", 224),
        ("densenet121", "DenseNet121", 224),
    ],
)
def test_case_and_separators_of_a_name_do_not_matter(
    tf: Any, name: str, keras_name: str, size_px: int
) -> None:
    network = build_keras._find_network(tf.keras, name)

    assert (network.name, network.size_px) == (keras_name, size_px)


def test_every_size_is_of_a_network_that_keras_has(tf: Any) -> None:
    names = {network.name for network in build_keras._networks(tf.keras)}

    assert set(build_keras._SIZE_PX) <= names
    assert len(names) >= 38


@pytest.mark.parametrize(
    ("name", "message"), [("resnet-51", "there is: ResNet50"), ("lite", "ConvNeXtBase, .*Xception")]
)
def test_an_unknown_network_names_its_neighbours_or_all(tf: Any, name: str, message: str) -> None:
    with pytest.raises(ModelNotFound, match=message):
        export_keras(name, weights="random")


def test_a_pooling_that_gives_maps_is_refused() -> None:
    with pytest.raises(ModelError, match=r"pass one of \['max', 'avg'\]"):
        export_keras("resnet50", weights="random", pooling="none")


def is_one_line(error: pytest.ExceptionInfo[ModelError]) -> bool:
    return "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "content"), [("w.h5", "no HDF5"), ("w.bin", "no weights")])
def test_a_file_that_holds_no_weights_is_refused(
    tf: Any, tmp_path: Path, name: str, content: str
) -> None:
    path = tmp_path / name
    path.write_text(content)

    with pytest.raises(ModelError, match=f"{name} does not hold weights of MobileNet ") as error:
        export_keras("mobilenet", weights=path)
    assert is_one_line(error)


@pytest.mark.parametrize("kind", ["downloaded", "saved"])
def test_weights_of_another_network_are_refused(tf: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "other.weights.h5"
    other = tf.keras.applications.MobileNet(include_top=False, weights=None)
    if kind == "downloaded":
        path = tmp_path / "other.h5"
        write_as_downloaded(other, path)
    else:
        other.save_weights(path)

    with pytest.raises(ModelError, match="does not hold weights of MobileNetV2 ") as error:
        export_keras("mobilenetv2", weights=str(path))
    assert is_one_line(error)


def test_a_weights_file_that_is_not_there_is_named(tf: Any) -> None:
    with pytest.raises(ModelError, match=r"there is no weights file 'gone\.h5'"):
        export_keras("mobilenetv2", weights="gone.h5")


def test_the_converters_last_words_are_told(tf: Any, tmp_path: Path) -> None:
    network = build_keras._find_network(tf.keras, "vgg16")

    with pytest.raises(
        ModelError, match="tf2onnx cannot convert VGG16: OSError: SavedModel"
    ) as error:
        build_keras._run_tf2onnx(network, tmp_path / "gone", tmp_path / "model.onnx")
    assert is_one_line(error)


def test_a_converter_that_was_killed_is_told_apart() -> None:
    done = subprocess.CompletedProcess([], -9, stderr="INFO - Optimizing ONNX model")

    assert "signal 9" in build_keras._last_words(done)


def test_functions_for_xla_are_traced_into(tf: Any) -> None:
    grouped = tf.keras.layers.Conv2D(8, 3, groups=4)
    grouped.build((None, 8, 8, 8))
    images = tf.TensorSpec([None, 8, 8, 8], tf.float32)

    with build_keras._inlined_functions(tf):
        traced = tf.function(grouped, input_signature=[images]).get_concrete_function()

    kinds = {operation.type for operation in traced.graph.get_operations()}
    assert "Conv2D" in kinds
    assert not any("Call" in kind for kind in kinds)
    assert not tf.config.functions_run_eagerly()


def test_erfc_is_spelled_with_operators_that_onnx_has() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in "xy"]
    nodes = [
        helper.make_node("Erfc", ["x"], ["once"]),
        helper.make_node("Erfc", ["once"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "erfc", values[:1], values[1:])
    x = np.linspace(-3, 3, 13, dtype=np.float32)

    build_keras._spell_erfc(graph)

    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    onnx.checker.check_model(model, full_check=True)
    (y,) = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    assert y == pytest.approx([math.erfc(math.erfc(value)) for value in x], abs=1e-6)


def run_alone(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    prelude = """
import sys
from twinlens.models.build.keras import export_keras
from twinlens.shared.errors import ModelError
"""
    return subprocess.run(
        [sys.executable, "-c", prelude + code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


EXPORT = """
try:
    export_keras("mobilenetv2")
except ModelError as error:
    print(error)
"""


def test_without_the_extra_one_line_names_it() -> None:
    block = "assert 'tensorflow' not in sys.modules\nsys.modules['tensorflow'] = None\n"

    done = run_alone(block + EXPORT)

    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.endswith("pip install 'twinlens[export]'")


def test_without_a_network_one_silent_line_names_the_file(tf: Any, tmp_path: Path) -> None:
    # Nothing listens there, and an empty KERAS_HOME holds no earlier download.
    nowhere = "http://127.0.0.1:9"
    proxies = {"http_proxy": nowhere, "https_proxy": nowhere, "no_proxy": ""}

    done = run_alone(EXPORT, KERAS_HOME=str(tmp_path), **proxies)

    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.startswith("MobileNetV2: its ImageNet weights are not available")
    assert "/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5" in line
    assert line.endswith("pass it as --weights FILE")
