"""Checks a model against the known answers on its card."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from twinlens.models.bits import is_packed
from twinlens.models.card import Card, Golden, OutputKind
from twinlens.models.pictures import open_picture
from twinlens.shared.errors import BadCard, ModelRefused

if TYPE_CHECKING:
    from pathlib import Path

    from twinlens.models.session import Embedder, Embeddings, Pixels

GOLDEN_DIRECTORY = "golden"


class KnownAnswer(NamedTuple):
    """A golden picture as the model takes it, uint8 [1, height, width, 3], and its embedding."""

    picture: str
    pixels: Pixels
    embedding: Embeddings


def read_answers(card: Card, directory: Path) -> list[KnownAnswer]:
    """Reads the golden pictures of a card.

    Args:
        card: The model's card.
        directory: Where it lies; the pictures lie in `golden/` below.

    Raises:
        BadCard: The card has no golden embedding, or one that cannot be read.
        ModelRefused: A picture is missing.
    """
    if not card.golden:
        raise BadCard(f"card of {card.name}: no golden embedding, so the model cannot be checked")
    return [
        KnownAnswer(
            golden.picture,
            _read_pixels(card, directory / GOLDEN_DIRECTORY / golden.picture),
            decode_embedding(card, golden.embedding),
        )
        for golden in card.golden
    ]


def check_answer(embedder: Embedder, known: KnownAnswer) -> None:
    """Embeds a golden picture and compares it with the card.

    Raises:
        ModelRefused: The embedding's cosine is below `min_cosine`.
    """
    card = embedder.card
    cosine = _cosine(card, known.embedding, embedder.embed_batch(known.pixels)[0])
    # Not `cosine < min_cosine`: that is false for a NaN.
    if not cosine >= card.min_cosine:
        raise ModelRefused(
            f"model {card.ref}: {known.picture} gives an embedding whose "
            f"cosine to the card's is {cosine:.6f}; at least {card.min_cosine} is needed. Its "
            "vectors would not fit those already stored. Restore the model's file and the "
            "golden pictures, or give the changed model a new version and new golden vectors"
        )


def check_golden(embedder: Embedder, directory: Path) -> None:
    """Embeds each golden picture and compares it with the card.

    Args:
        embedder: The model.
        directory: Where its card lies; the pictures lie in `golden/` below.

    Raises:
        BadCard: The card has no golden embedding, or one that cannot be read.
        ModelRefused: A picture is missing, or its embedding's cosine is below `min_cosine`.
    """
    for known in read_answers(embedder.card, directory):
        check_answer(embedder, known)


def make_golden(embedder: Embedder, directory: Path) -> tuple[Golden, ...]:
    """Embeds every golden picture of a directory of models, as a card keeps it."""
    pictures = sorted((directory / GOLDEN_DIRECTORY).glob("*.png"))
    card = embedder.card
    return tuple(
        Golden(
            picture=picture.name, embedding=encode_embedding(card, embed_file(embedder, picture))
        )
        for picture in pictures
    )


def embed_file(embedder: Embedder, path: Path) -> Embeddings:
    """Embeds one picture file: float32 [dim], or uint8 [dim / 8]."""
    embedding: Embeddings = embedder.embed_batch(_read_pixels(embedder.card, path))[0]
    return embedding


def encode_embedding(card: Card, embedding: Embeddings) -> str:
    """Writes an embedding as a card does (`Golden.embedding`)."""
    if card.output is OutputKind.BITS:
        return embedding.tobytes().hex()
    return base64.b64encode(embedding.astype("<f2").tobytes()).decode("ascii")


def decode_embedding(card: Card, text: str) -> Embeddings:
    """Reads an embedding as a card gives it: float32 [dim], or uint8 [dim / 8].

    Raises:
        BadCard: The text is not base64 (bits: hexadecimal), or of another dimension.
    """
    is_bits = card.output is OutputKind.BITS
    try:
        raw = bytes.fromhex(text) if is_bits else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise BadCard(f"card of {card.name}: a golden embedding cannot be read: {error}") from error
    n_bytes = card.dimension // 8 if is_bits else card.dimension * 2
    if len(raw) != n_bytes:
        raise BadCard(
            f"card of {card.name}: a golden embedding has {len(raw)} bytes; "
            f"dimension {card.dimension} of {card.output.value} needs {n_bytes}"
        )
    return np.frombuffer(raw, np.uint8) if is_bits else np.frombuffer(raw, "<f2").astype(np.float32)


def _read_pixels(card: Card, path: Path) -> Pixels:
    try:
        picture = open_picture(path.read_bytes(), wanted_px=card.input.wanted_px)
    except OSError as error:
        raise ModelRefused(
            f"model {card.name}: its golden picture {path.name} cannot be read "
            f"({error.strerror}); put it back into {GOLDEN_DIRECTORY}/ beside the card"
        ) from error
    return picture.pixels_for(card.input)[np.newaxis]


def _cosine(card: Card, expected: Embeddings, embedding: Embeddings) -> float:
    """Cosine of two embeddings; of bits, with 1 and 0 taken for +1 and -1."""
    if is_packed(expected) and is_packed(embedding):
        n_different = int(np.bitwise_count(expected ^ embedding).sum())
        return 1.0 - 2.0 * n_different / card.dimension
    # The product, not the cosine: a model whose vectors are not of length 1 is to be refused too.
    if abs(float(np.linalg.norm(embedding)) - 1.0) > 1e-3:
        return float("nan")
    return float(expected @ embedding / np.linalg.norm(expected))
