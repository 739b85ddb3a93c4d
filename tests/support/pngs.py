"""PNG files written by hand: any depth, chunks that are wrong, rows interlaced."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from support.tiffs import pack

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
# Of Adam7: where each pass starts, and its steps.
PASSES = [
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
]


def png(
    samples: NDArray[Any],
    n_bits: int = 8,
    colour: int = GREY,
    *,
    before: Sequence[bytes] = (),
    behind: Sequence[bytes] = (),
    is_interlaced: bool = False,
) -> bytes:
    """Returns a file of [height, width] or [height, width, channels].

    Args:
        samples: Not larger than `n_bits` allow.
        n_bits: Of each sample.
        colour: What the samples are.
        before: Chunks before the pixels.
        behind: Chunks behind them.
        is_interlaced: Whether the pixels come in seven passes.
    """
    height, width = samples.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, n_bits, colour, 0, 0, int(is_interlaced))
    passes = [samples[y::down, x::right] for y, x, down, right in PASSES]
    parts = [part for part in passes if part.size] if is_interlaced else [samples]
    rows = b"".join(_unfiltered(part, n_bits) for part in parts)
    chunks = [
        chunk(b"IHDR", head),
        *before,
        chunk(b"IDAT", zlib.compress(rows)),
        *behind,
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def chunk(kind: bytes, content: bytes, wrong: int = 0) -> bytes:
    """Returns a chunk; its checksum is wrong in the bits that `wrong` has."""
    checksum = zlib.crc32(kind + content) ^ wrong
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def transparent(*samples: int) -> bytes:
    """Returns the chunk that names a grey or a colour as transparent."""
    return chunk(b"tRNS", struct.pack(f">{len(samples)}H", *samples))


def _unfiltered(samples: NDArray[Any], n_bits: int) -> bytes:
    packed = pack(samples, n_bits, ">")
    n_bytes = len(packed) // len(samples)
    return b"".join(b"\0" + packed[i : i + n_bytes] for i in range(0, len(packed), n_bytes))
