"""Runs a model: pixels in, embeddings out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from twinlens.models.bits import Embeddings as Embeddings  # noqa: PLC0414 (given by Embedder)
from twinlens.models.card import Card, OutputKind
from twinlens.shared.errors import BadEmbedding, ModelRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

Pixels = NDArray[np.uint8]

INPUT_NAME, OUTPUT_NAME = "images", "embedding"
CPU_PROVIDERS = ("CPUExecutionProvider",)
# On a CPU a batch is no faster than its pictures one by one, and takes more memory. On a GPU it
# is.
CPU_BATCH_SIZE = 1
GPU_BATCH_SIZE = 32


def is_cpu(providers: Sequence[str]) -> bool:
    """Tells if a session with these providers computes on the processor."""
    return list(providers[:1]) == list(CPU_PROVIDERS)


def default_batch_size(providers: Sequence[str]) -> int:
    """Returns how many pictures should go through a model at a time."""
    return CPU_BATCH_SIZE if is_cpu(providers) else GPU_BATCH_SIZE


class Embedder(Protocol):
    """Whatever turns pixels into embeddings; onnxruntime here, a fake in tests."""

    @property
    def card(self) -> Card:
        """The model's card."""

    def embed_batch(self, pixels: Pixels) -> Embeddings:
        """Embeds pictures.

        Args:
            pixels: uint8 [n, height, width, 3], RGB.

        Returns:
            float32 [n, dim], each row of length 1 within 1e-5; or uint8 [n, dim / 8], packed bits.

        Raises:
            BadEmbedding: A number is not finite.
        """


class OnnxEmbedder:
    """An onnxruntime session with the model's card. Threads may share one."""

    def __init__(
        self,
        card: Card,
        model: bytes,
        *,
        providers: Sequence[str] = CPU_PROVIDERS,
        batch_size: int = CPU_BATCH_SIZE,
    ) -> None:
        """Opens a session.

        Args:
            card: The model's card.
            model: The ONNX file's bytes.
            providers: onnxruntime's execution providers, the preferred first.
            batch_size: How many pictures go through the model at a time.

        Raises:
            ModelRefused: The bytes are no model that onnxruntime reads, or its input or output
                is not the card's.
        """
        self._card = card
        self._batch_size = batch_size
        try:
            self._session = ort.InferenceSession(
                model, sess_options=session_options(), providers=list(providers)
            )
        except Exception as error:  # onnxruntime has no common base of its errors
            raise ModelRefused(
                f"model {card.ref}: onnxruntime cannot open {card.file}: {error}"
            ) from error
        self._check_signature()

    @property
    def card(self) -> Card:
        """The model's card."""
        return self._card

    def embed_batch(self, pixels: Pixels) -> Embeddings:
        """See `Embedder.embed_batch`."""
        # An empty row first, so that no pictures give an array of the right shape.
        batches: list[Embeddings] = [np.empty((0, self._n_columns), self._dtype)]
        batches += [
            self._embed_some(pixels[start : start + self._batch_size])
            for start in range(0, len(pixels), self._batch_size)
        ]
        return np.concatenate(batches)

    @property
    def _is_bits(self) -> bool:
        return self._card.output is OutputKind.BITS

    @property
    def _n_columns(self) -> int:
        return self._card.dimension // 8 if self._is_bits else self._card.dimension

    @property
    def _dtype(self) -> type[np.uint8 | np.float32]:
        return np.uint8 if self._is_bits else np.float32

    def _embed_some(self, pixels: Pixels) -> Embeddings:
        (embeddings,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: pixels})
        embeddings = np.asarray(embeddings, self._dtype)
        if not self._is_bits and not np.isfinite(embeddings).all():
            raise BadEmbedding(
                f"model {self._card.ref} gave a vector that is not finite; "
                "no such vector is stored. Check the model with pictures of one colour"
            )
        return embeddings

    def _check_signature(self) -> None:
        spec = self._card.input
        expected = {
            INPUT_NAME: ("tensor(uint8)", [spec.height, spec.width, 3]),
            OUTPUT_NAME: (
                "tensor(uint8)" if self._is_bits else "tensor(float)",
                [self._n_columns],
            ),
        }
        signature = {
            value.name: (value.type, list(value.shape[1:]))
            for value in (*self._session.get_inputs(), *self._session.get_outputs())
        }
        if signature != expected:
            raise ModelRefused(
                f"model {self._card.ref}: {self._card.file} takes and gives {signature}; its card "
                f"says {expected}. Convert the model again, or correct the card"
            )


def session_options() -> ort.SessionOptions:
    """Returns the options of every session: one thread that does not spin."""
    # Several sessions in one process, each with its own spinning threads, fight for the cores:
    # 161 ms instead of 77 for three models (onnxruntime#17011). Work is spread over processes.
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options
