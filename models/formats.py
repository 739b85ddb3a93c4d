"""Tells picture formats by their first bytes, before any decoder sees the file.

This tells a file that is not a picture, or of a kind that is not served (415), from a broken
picture (422), and only the decoder that fits is tried.
"""

from __future__ import annotations

from twinlens.shared.errors import UnsupportedPicture

SERVED = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "HEIF")

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
# Of HEIF with HEVC in it, as a still or the first of a sequence; the last two of any HEIF.
_HEIF_BRANDS = {
    *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
    *(b"mif1", b"msf1"),
}
RAW = "a camera's raw file"
# How those begin that do not begin as TIFF.
RAW_HEADS = (
    *(b"IIRO", b"IIRS", b"MMOR"),  # Olympus
    b"IIU\x00",  # Panasonic, Leica
    b"II\x1a\x00\x00\x00HEAPCCDR",  # Canon, until 2004
    b"FUJIFILMCCD-RAW",
    b"\x00MRM",  # Minolta
    b"FOVb",  # Sigma
)
BIG_TIFF_HEADS = (b"II+\x00", b"MM\x00+")


def find_format(data: bytes) -> str:
    """Returns the name of the format that a file begins like, one of SERVED.

    >>> find_format(b"GIF89a" + bytes(40))
    'GIF'

    Raises:
        UnsupportedPicture: It begins like none of them.
    """
    _check_not_served(data)
    for signature, name in _SIGNATURES.items():
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    brands = _brands(data)
    if brands & _AVIF_BRANDS:
        return "AVIF"
    if brands & _HEIF_BRANDS:
        return "HEIF"
    raise UnsupportedPicture(
        "the first bytes are of no picture type that is served; "
        f"send {', '.join(SERVED[:-1])} or {SERVED[-1]}"
    )


def unsupported(what: str, send: str = "an ordinary JPEG or PNG") -> UnsupportedPicture:
    """Returns the error for a file that is whole, but not of a kind that is served."""
    return UnsupportedPicture(f"not supported: {what}; send {send}")


def _check_not_served(data: bytes) -> None:
    # Told by name, since their senders take them for TIFF, or for photos.
    if data.startswith(BIG_TIFF_HEADS):
        raise unsupported("BigTIFF")
    # Canon's begin like a TIFF (CR2), or like HEIF (CR3).
    is_of_canon = data[8:12] == b"CR\x02\x00" or data[4:12] == b"ftypcrx "
    if is_of_canon or data.startswith(RAW_HEADS):
        raise unsupported(RAW)


def _brands(data: bytes) -> set[bytes]:
    """The brands in the first box of an ISO base media file: its major one and the compatible."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 256)
    return {data[start : start + 4] for start in (8, *range(16, end, 4))}
