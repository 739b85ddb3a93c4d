"""Vectors as files of NumPy, which the API does without."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from twinlens.shared.errors import ContentMissing

if TYPE_CHECKING:
    from twinlens.shared.answers import ImageVectors

NPY_TYPE = "application/x-npy"

_BEGIN = b"\x93NUMPY\x01\x00"
# By dtype: how NumPy writes it, and how `struct` does.
_CODES = {"float32": ("<f4", "f"), "uint8": ("|u1", "B")}


def npy_of(vectors: ImageVectors) -> bytes:
    """Returns the only vector as a file of NumPy, version 1.0.

    Raises:
        ContentMissing: There is none.

    Source:
        https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html: the head is padded
        so that the values begin at a multiple of 64 bytes.
    """
    if not vectors.items:
        raise ContentMissing("The model has no vector of this image.")
    [vector] = vectors.items
    descr, code = _CODES[vector.dtype]
    n = len(vector.values)
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({n},), }}"
    n_before = len(_BEGIN) + 2  # two bytes tell how long the head is
    head += " " * (-(n_before + len(head) + 1) % 64) + "\n"
    values = struct.pack(f"<{n}{code}", *vector.values)
    return _BEGIN + struct.pack("<H", len(head)) + head.encode("ascii") + values
