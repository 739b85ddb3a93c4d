"""Tells picture formats by their first bytes, before any decoder sees the file.

This tells a file that is not a picture (415) from a broken picture (422), and only the one of
Pillow's decoders that fits is tried.
"""

from __future__ import annotations

from twinlens.shared.errors import UnsupportedPicture

SERVED = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF")

_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}
# "BM" alone begins many a text; the size of the second header tells.
_BMP_HEADER_SIZES = {12, 40, 52, 56, 64, 108, 124}
_AVIF_BRANDS = {b"avif", b"avis"}


def find_format(data: bytes) -> str:
    """Returns Pillow's name for the format that a file begins like, one of SERVED.

    >>> find_format(b"GIF89a" + bytes(40))
    'GIF'

    Raises:
        UnsupportedPicture: It begins like none of them.
    """
    for signature, name in _SIGNATURES.items():
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if data[4:8] == b"ftyp" and _brands(data) & _AVIF_BRANDS:
        return "AVIF"
    raise UnsupportedPicture(
        "the first bytes are of no picture type that is served; "
        f"send {', '.join(SERVED[:-1])} or {SERVED[-1]}"
    )


def _brands(data: bytes) -> set[bytes]:
    """The brands in the first box of an ISO base media file: its major one and the compatible."""
    end = min(int.from_bytes(data[:4], "big"), 256)
    return {data[start : start + 4] for start in (8, *range(16, end, 4))}
