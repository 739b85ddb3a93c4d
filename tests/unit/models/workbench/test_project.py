"""Projection against numpy's eigenvectors, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from twinlens.models.build.linear import read_linear_map
from twinlens.models.build.phash import build_phash
from twinlens.models.errors import BadInput
from twinlens.models.workbench.project import project_model
from twinlens.shared.errors import ModelError

SIDE_PX, DIMENSION = 8, 40


def make_network(opset: int = 17) -> bytes:
    """Pixels, a random matrix, L2 norm: uint8 [N, 8, 8, 3] to float32 [N, 40]."""
    matrix = np.random.default_rng(0).standard_normal((SIDE_PX * SIDE_PX * 3, DIMENSION))
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["features"]),
        helper.make_node("LpNormalization", ["features"], ["embedding"], axis=1, p=2),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE_PX, SIDE_PX, 3])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", DIMENSION])
    weights = [numpy_helper.from_array(matrix.astype(np.float32), "matrix")]
    graph = helper.make_graph(nodes, "network", [images], [embedding], weights)
    opsets = [helper.make_opsetid("", opset)]
    content: bytes = helper.make_model(
        graph, opset_imports=opsets, ir_version=8
    ).SerializeToString()
    return content


def run(model: bytes, pixels: NDArray[np.uint8], output: str = "embedding") -> NDArray[Any]:
    parsed = onnx.load_from_string(model)
    if output != "embedding":
        parsed.graph.output.append(onnx.ValueInfoProto(name=output))
    session = ort.InferenceSession(parsed.SerializeToString(), providers=["CPUExecutionProvider"])
    rows: NDArray[Any] = session.run([output], {"images": pixels})[0]
    return rows


def noise(n_pictures: int, seed: int) -> NDArray[np.uint8]:
    """Pictures whose parts vary unevenly, so that components are told from each other."""
    rng = np.random.default_rng(seed)
    spread = np.linspace(0.1, 1, SIDE_PX * SIDE_PX * 3).reshape(SIDE_PX, SIDE_PX, 3)
    pixels = 128 + rng.normal(0, 40, (n_pictures, SIDE_PX, SIDE_PX, 3)) * spread
    return pixels.clip(0, 255).astype(np.uint8)


def reference(
    sample: NDArray[Any], embeddings: NDArray[Any], dimension: int, *, whiten: bool
) -> NDArray[Any]:
    """By the eigenvectors of the covariance, in float64."""
    values, vectors = np.linalg.eigh(np.cov(sample.astype(np.float64), rowvar=False))
    order = np.argsort(values)[::-1][:dimension]
    vectors = np.stack(
        [vector if vector[np.abs(vector).argmax()] > 0 else -vector for vector in vectors.T[order]],
        axis=1,
    )
    components = (embeddings - sample.mean(0, np.float64)) @ vectors
    if whiten:
        components /= np.sqrt(values[order])
    unit: NDArray[Any] = components / np.linalg.norm(components, axis=1, keepdims=True)
    return unit


@pytest.fixture(scope="module")
def network() -> bytes:
    return make_network()


@pytest.fixture(scope="module")
def sample(network: bytes) -> NDArray[np.float32]:
    return run(network, noise(300, seed=1))


@pytest.mark.parametrize("whiten", [False, True], ids=["pca", "white"])
@pytest.mark.parametrize("dimension", [1, 7, 39])
def test_the_graph_projects_as_numpy_does(
    network: bytes, sample: NDArray[np.float32], dimension: int, whiten: bool
) -> None:
    pixels = noise(5, seed=2)

    projected = project_model(network, sample, dimension, whiten=whiten)

    onnx.checker.check_model(projected, full_check=True)
    expected = reference(sample, run(network, pixels), dimension, whiten=whiten)
    assert run(projected, pixels) == pytest.approx(expected, abs=1e-5)
    singly = np.concatenate([run(projected, one[np.newaxis]) for one in pixels])
    assert singly == pytest.approx(expected, abs=1e-5)


def test_input_and_output_keep_their_form(network: bytes, sample: NDArray[np.float32]) -> None:
    session = ort.InferenceSession(
        project_model(network, sample, 7), providers=["CPUExecutionProvider"]
    )

    (images,), (embedding,) = session.get_inputs(), session.get_outputs()

    assert (images.name, images.type, images.shape) == (
        "images",
        "tensor(uint8)",
        ["N", SIDE_PX, SIDE_PX, 3],
    )
    assert (embedding.name, embedding.type, embedding.shape) == (
        "embedding",
        "tensor(float)",
        ["N", 7],
    )


def test_whitened_components_have_unit_covariance(
    network: bytes, sample: NDArray[np.float32]
) -> None:
    projected = project_model(network, sample, 20, whiten=True)

    components = run(projected, noise(300, seed=1), "projection/components")

    assert np.cov(components, rowvar=False) == pytest.approx(np.eye(20), abs=1e-3)
    assert components.mean(0) == pytest.approx(np.zeros(20), abs=1e-3)


def test_components_do_not_correlate_and_the_largest_is_first(
    network: bytes, sample: NDArray[np.float32]
) -> None:
    projected = project_model(network, sample, 20)

    covariance = np.cov(run(projected, noise(300, seed=1), "projection/components"), rowvar=False)

    spreads = np.diag(covariance)
    assert (np.diff(spreads) < 0).all()
    assert covariance == pytest.approx(np.diag(spreads), abs=1e-3 * spreads[0])


def test_a_projection_repeats_to_the_byte(network: bytes, sample: NDArray[np.float32]) -> None:
    projected = project_model(network, sample, 7)

    assert projected == project_model(network, sample, 7)
    # The order of the pictures changes the last bits alone, and never a sign.
    pixels = noise(5, seed=2)
    other = run(project_model(network, sample[::-1], 7), pixels)
    assert run(projected, pixels) == pytest.approx(other, abs=1e-4)


def test_an_older_set_of_operators_is_converted(sample: NDArray[np.float32]) -> None:
    pixels = noise(5, seed=2)

    projected = project_model(make_network(opset=11), sample, 7)

    expected = reference(sample, run(make_network(), pixels), 7, whiten=False)
    assert run(projected, pixels) == pytest.approx(expected, abs=1e-5)


def test_a_picture_that_is_the_mean_gives_no_nan(network: bytes) -> None:
    pixels = noise(1, seed=3)
    middle = run(network, pixels)[0]
    # Sums and differences of powers of two: the mean is the embedding itself, to the last bit.
    steps = np.ldexp(np.eye(DIMENSION, dtype=np.float32), -6)[:10]
    projected = project_model(network, np.concatenate([middle + steps, middle - steps]), 5)

    embeddings = run(projected, pixels)

    assert np.isfinite(embeddings).all()
    assert np.linalg.norm(embeddings) <= 1 + 1e-5


@pytest.mark.parametrize("dimension", [0, -1, 40, 41])
def test_a_dimension_that_is_not_less_is_refused(
    network: bytes, sample: NDArray[np.float32], dimension: int
) -> None:
    with pytest.raises(BadInput, match="from 1 to 39"):
        project_model(network, sample, dimension)


@pytest.mark.parametrize("n_pictures", [0, 1, 7])
def test_too_few_pictures_are_refused_with_how_many_are_needed(
    network: bytes, sample: NDArray[np.float32], n_pictures: int
) -> None:
    with pytest.raises(BadInput, match="8 pictures are needed"):
        project_model(network, sample[:n_pictures], 7)


@pytest.mark.parametrize("n_different", [1, 5])
def test_pictures_that_are_alike_are_refused(
    network: bytes, sample: NDArray[np.float32], n_different: int
) -> None:
    with pytest.raises(BadInput, match=f"differ in {n_different - 1} directions only"):
        project_model(network, np.tile(sample[:n_different], (20, 1)), 7)


def test_embeddings_of_another_model_are_refused(
    network: bytes, sample: NDArray[np.float32]
) -> None:
    broken = sample.copy()
    broken[3, 3] = np.nan
    for wrong, reason in (
        (sample[:, :30], "30 numbers and the model gives 40"),
        (sample[0], "finite numbers"),
        (broken, "finite numbers"),
    ):
        with pytest.raises(ModelError, match=reason):
            project_model(network, wrong, 7)


def test_bits_and_what_is_projected_already_are_refused(
    network: bytes, sample: NDArray[np.float32]
) -> None:
    with pytest.raises(ModelError, match="bits"):
        project_model(build_phash().SerializeToString(), sample, 7)

    projected = project_model(network, sample, 20)
    with pytest.raises(ModelError, match="projected already"):
        project_model(projected, run(projected, noise(300, seed=1)), 7)


def test_the_map_that_is_read_from_a_graph_computes_what_the_graph_does(
    network: bytes, sample: NDArray[np.float32]
) -> None:
    pixels = noise(50, seed=2)

    projected = project_model(network, sample, 20)

    computed = read_linear_map(projected).apply(run(network, pixels))
    assert computed.dtype == np.float32
    assert np.abs(computed - run(projected, pixels)).max() < 1e-6


def test_the_mean_itself_becomes_zero_and_not_nan(
    network: bytes, sample: NDArray[np.float32]
) -> None:
    linear = read_linear_map(project_model(network, sample, 20))

    assert not linear.apply(linear.mean[np.newaxis]).any()


def test_a_graph_without_a_map_has_none_to_read(network: bytes) -> None:
    with pytest.raises(ModelError, match="has no linear map at its end"):
        read_linear_map(network)
