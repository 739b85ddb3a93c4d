"""Tries a rewritten network beside the network as it came, on pictures that tell them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort

from twinlens.models.session import CPU_PROVIDERS, INPUT_NAME, OUTPUT_NAME, session_options
from twinlens.shared.errors import ModelError, ModelRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto

    from twinlens.models.card import InputSpec
    from twinlens.models.session import Pixels

NOISE = "noise"
# How far apart two embeddings of one picture may be, both of length 1. Measured: at most 1e-7,
# with float16 1.4e-4; 0.01 and more where the pictures of a batch mix.
CLOSE, CLOSE_FLOAT16 = 1e-4, 2e-3


def probe_pictures(spec: InputSpec) -> dict[str, Pixels]:
    """Returns five pictures by name, each uint8 [1, height, width, 3], NOISE among them."""
    rng = np.random.default_rng(0)
    shape = (1, spec.height, spec.width, 3)
    ramp = np.linspace(0, 255, spec.width)[:, np.newaxis] * np.array([1.0, 0.5, 0.25])
    return {
        "black": np.zeros(shape, np.uint8),
        "white": np.full(shape, 255, np.uint8),
        NOISE: rng.integers(0, 256, shape, np.uint8),
        "dark noise": rng.integers(0, 64, shape, np.uint8),
        "ramp": np.broadcast_to(ramp, shape).astype(np.uint8),
    }


def run_network(network: ModelProto, batch: NDArray[np.generic]) -> NDArray[np.floating]:
    """Runs a network as it came, with one input and one output.

    Args:
        network: The network; it is not changed.
        batch: Its input, [n, …].

    Returns:
        float16, float32 or float64 [n, …].

    Raises:
        ModelError: It does not run, or gives something else.
    """
    name = network.graph.output[0].name
    try:
        session = _open(network.SerializeToString())
        (values,) = session.run(None, {network.graph.input[0].name: batch})
    except Exception as error:  # onnxruntime has no common base of its errors
        raise ModelError(
            f"onnxruntime cannot run the graph up to {name!r} with {list(batch.shape)} ({error}). "
            "Pass another --size or --output, or export the network again"
        ) from error
    is_array = isinstance(values, np.ndarray)
    is_expected = is_array and np.issubdtype(values.dtype, np.floating)
    if not is_expected or values.shape[:1] != batch.shape[:1]:
        description = f"{values.dtype} {list(values.shape)}" if is_array else "no array of numbers"
        raise ModelError(
            f"of {len(batch)} picture(s) {name!r} is {description}; floating numbers of shape "
            f"[{len(batch)}, …] are expected. Pass --output with another tensor"
        )
    features: NDArray[np.floating] = values
    return features


def check_embeddings(
    model: bytes,
    pictures: Mapping[str, Pixels],
    expected: NDArray[np.floating],
    limit: float,
) -> None:
    """Refuses a rewritten graph that is not in order.

    Args:
        model: An ONNX file that takes `images` and gives `embedding`.
        pictures: The pictures of `probe_pictures`.
        expected: The embedding of NOISE, from the network as it came.
        limit: The largest allowed distance to it, and between batches of one and of all.

    Raises:
        ModelError: It is not valid ONNX.
        ModelRefused: An embedding is not of length 1, or another than expected, or depends on the
            other pictures of its batch, or is the same whatever the picture.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
        session = _open(model)
    except Exception as error:  # neither library has a common base of its errors
        raise ModelError(
            f"the rewritten graph is not valid ({error}). Export the network again, if need be "
            "with another opset"
        ) from error
    alone = {name: _embed(session, picture) for name, picture in pictures.items()}
    for name, embedding in alone.items():
        _check_length(name, embedding)
    away = float(np.linalg.norm(alone[NOISE] - expected))
    # Not `away > limit`: that is false for a NaN.
    if not away <= limit:
        raise ModelRefused(
            f"an embedding of the rewritten graph is {away:.2g} away from the network's own; at "
            f"most {limit} is expected. Export the network with a later opset"
        )
    _check_batch(session, np.concatenate([*pictures.values()]), [*alone.values()], limit)
    _check_pictures_count([*alone.values()], limit)


def _check_length(name: str, embedding: NDArray[np.float32]) -> None:
    length = float(np.linalg.norm(embedding))
    if not abs(length - 1.0) <= 1e-3:
        raise ModelRefused(
            f"the embedding of a picture of {name} has length {length:.3g}, and 1 is expected: "
            "the network gives nothing there, or no numbers. Check --scale, --mean and --std, or "
            "pass --output with another tensor"
        )


def _check_pictures_count(embeddings: list[NDArray[np.float32]], limit: float) -> None:
    away = max(float(np.linalg.norm(one - embeddings[0])) for one in embeddings)
    if away <= limit:
        raise ModelRefused(
            f"the embedding is the same whatever the picture: of {len(embeddings)} that are not "
            f"alike, none is more than {away:.2g} from the first. Pass --output with a tensor that "
            "is made of the picture, or check --scale, --mean and --std"
        )


def _check_batch(
    session: ort.InferenceSession,
    batch: Pixels,
    alone: list[NDArray[np.float32]],
    limit: float,
) -> None:
    together = _embed(session, batch)
    away = float(np.linalg.norm(together - np.concatenate(alone), axis=1).max())
    if not away <= limit:
        raise ModelRefused(
            f"an embedding depends on the other pictures of its batch: it is {away:.2g} away from "
            f"that of the picture alone, and at most {limit} is expected. Export the network for "
            "inference, and with a free batch dimension"
        )


def _embed(session: ort.InferenceSession, pixels: Pixels) -> NDArray[np.float32]:
    try:
        rows: NDArray[np.float32] = session.run([OUTPUT_NAME], {INPUT_NAME: pixels})[0]
    except Exception as error:  # onnxruntime has no common base of its errors
        raise ModelRefused(
            f"the network does not run on a batch of {len(pixels)} ({error}). Export it with a "
            "free batch dimension"
        ) from error
    if len(rows) != len(pixels):
        raise ModelRefused(
            f"the network makes {len(rows)} embedding(s) of a batch of {len(pixels)}. Export it "
            "with a free batch dimension"
        )
    return rows


def _open(model: bytes) -> ort.InferenceSession:
    options = session_options()
    # What goes wrong here is raised; onnxruntime would print it as well.
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=list(CPU_PROVIDERS))
