"""Text encoders: words to an embedding in the same space as a model's pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from twinlens.models.card import WORDS_PLACE
from twinlens.models.session import session_options
from twinlens.shared.errors import BadEmbedding, ModelRefused

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from twinlens.models.card import Card

_KNOWN_INPUTS = {"input_ids", "attention_mask"}


class TextEncoder:
    """An onnxruntime session with its tokenizer. Threads may share one."""

    def __init__(self, card: Card, graph: bytes, tokenizer: bytes) -> None:
        """Opens a session.

        Args:
            card: The model's card; its `text` says what the graph is.
            graph: The ONNX file.
            tokenizer: A `tokenizer.json` of the tokenizers library.

        Raises:
            ModelRefused: A file cannot be read, or the graph is not of the form that
                `TextSpec` says.
        """
        assert card.text is not None
        self._card = card
        try:
            self._tokenizer = Tokenizer.from_buffer(tokenizer)
            self._tokenizer.enable_truncation(card.text.max_tokens)
            self._session = ort.InferenceSession(
                graph, sess_options=session_options(), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # neither library has a common base of its errors
            raise ModelRefused(
                f"model {card.ref}: its text encoder cannot be opened: {error}"
            ) from error
        self._inputs = {one.name for one in self._session.get_inputs()}
        self._output = card.text.output or self._session.get_outputs()[0].name
        self._templates = card.text.templates
        self._check_signature()
        self._check_space()

    @property
    def n_templates(self) -> int:
        """How many texts are run for one."""
        return len(self._templates)

    def encode(self, text: str) -> NDArray[np.float32]:
        """Embeds a text, as the mean of what the card's templates make of it.

        Source: Radford and others, Learning Transferable Visual Models From Natural Language
        Supervision, 2021, section 3.1.4.

        Returns:
            float32 [dimension], of length 1.

        Raises:
            BadEmbedding: A number is not finite, or all are 0.
        """
        said = [template.replace(WORDS_PLACE, text) for template in self._templates]
        return self._unit(np.mean([self._unit(self._run(one)) for one in said], axis=0))

    def _unit(self, row: NDArray[np.float32]) -> NDArray[np.float32]:
        length = float(np.linalg.norm(row))
        # Not `length == 0`: that is false for a NaN.
        if not 0.0 < length < np.inf:
            raise BadEmbedding(f"model {self._card.ref} gave no finite vector for this text")
        return row / np.float32(length)

    def _run(self, text: str) -> NDArray[np.float32]:
        tokens = self._tokenizer.encode(text)
        fed = {
            "input_ids": np.array([tokens.ids], np.int64),
            "attention_mask": np.array([tokens.attention_mask], np.int64),
        }
        (embedding,) = self._session.run([self._output], {name: fed[name] for name in self._inputs})
        return np.asarray(embedding, np.float32).reshape(-1)

    def _check_space(self) -> None:
        n_found = self._run("a photo of a cat").size
        if n_found != self._card.dimension:
            raise ModelRefused(
                f"model {self._card.ref}: its text encoder gives {n_found} numbers, and its "
                f"pictures have {self._card.dimension}: they are not of one space"
            )

    def _check_signature(self) -> None:
        outputs = [one.name for one in self._session.get_outputs()]
        if "input_ids" not in self._inputs or self._inputs - _KNOWN_INPUTS:
            raise ModelRefused(
                f"model {self._card.ref}: its text encoder takes {sorted(self._inputs)}; it must "
                "take input_ids, and may take attention_mask"
            )
        if self._output not in outputs:
            raise ModelRefused(
                f"model {self._card.ref}: its text encoder gives {outputs}, and not "
                f"{self._output!r}, which its card names"
            )
