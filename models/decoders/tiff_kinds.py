"""Which kinds of TIFF are understood: what samples mean, how deep they are, how they are stored.

What these tables allow was written by hand, decoded, and compared; tests do it again.
"""

from __future__ import annotations

from typing import NamedTuple

from twinlens.models.decoders.directories import Directory, Tag
from twinlens.models.formats import unsupported

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
_OTHER_COLOURS = {8: "CIE Lab", 9: "ICC Lab", 10: "ITU Lab", 32844: "LogL", 32845: "LogLuv"}
_UNSAID = -1
_UNCOMPRESSED = 1
_FAX = {2, 3, 4}
# And LZW, JPEG, Deflate under its two numbers, PackBits, LZMA, Zstandard.
_COMPRESSIONS = {_UNCOMPRESSED, *_FAX, 5, 7, 8, 32773, 32946, 34925, 50000}
_DEPTHS = {1, 2, 4, 8, 16}
_UNSIGNED = 1
_FORMATS = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
# Channels behind the colours: of any meaning, alpha by which they were multiplied, plain alpha.
_ANY, _MULTIPLIED, _ALPHA = 0, 1, 2

# Bits of the samples, and the channels that there may be behind the colours.
_Channels = tuple[tuple[int, ...], tuple[int, ...]]
_GREY: set[_Channels] = {((n_bits,), ()) for n_bits in _DEPTHS}
_KINDS: dict[int, set[_Channels]] = {
    WHITE_IS_ZERO: _GREY,
    BLACK_IS_ZERO: _GREY | {((8, 8), (_ANY,)), ((8, 8), (_ALPHA,))},
    RGB: {
        *(((n_bits,) * 3, ()) for n_bits in (8, 16)),
        # Some programs do not say that the fourth is alpha.
        *(
            ((n_bits,) * 4, extra)
            for n_bits in (8, 16)
            for extra in ((), (_ANY,), (_MULTIPLIED,), (_ALPHA,))
        ),
    },
    PALETTE: {((n_bits,), ()) for n_bits in (1, 2, 4, 8)},
    CMYK: {((8,) * 4, ()), ((16,) * 4, ()), ((8,) * 5, (_ANY,))},
    YCBCR: {((8,) * 3, ())},
}
# Of these, each channel may lie in a plane of its own.
_PLANAR = {(RGB, 3), (CMYK, 4)}
# Of Y, Cb and Cr, what is black and what is white, as fractions, where they use all numbers.
_FULL_RANGE = (0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1)
_SEND = "it as 8 or 16 bits a channel, in grey, RGB or CMYK"


class PixelKind(NamedTuple):
    """What the pixels of a page are."""

    photometric: int
    bits: tuple[int, ...]
    # What the channels behind the colours are.
    extra: tuple[int, ...]
    n_planes: int
    compression: int


def read_kind(page: Directory) -> PixelKind:
    """Returns the kind of a page.

    Raises:
        UnsupportedPicture: It is none that is understood.
    """
    n_samples = page.number(Tag.N_SAMPLES, 1)
    bits = page.numbers(Tag.BITS) or (1,)
    compression = page.number(Tag.COMPRESSION, _UNCOMPRESSED)
    kind = PixelKind(
        # Faxes may leave it out.
        page.number(Tag.PHOTOMETRIC, WHITE_IS_ZERO if compression in _FAX else _UNSAID),
        # One number may stand for all.
        bits * min(n_samples, 8) if len(bits) == 1 else bits[:n_samples],
        page.numbers(Tag.EXTRA_SAMPLES),
        n_samples if page.number(Tag.PLANES) == 2 else 1,
        compression,
    )
    why = _strange_numbers(page, kind) or _strange_colours(page, kind) or _strange_order(page, kind)
    if why:
        raise unsupported(f"a TIFF {why}", _SEND)
    return kind


def _strange_numbers(page: Directory, kind: PixelKind) -> str:
    formats = {*page.numbers(Tag.SAMPLE_FORMAT)} - {_UNSIGNED}
    if formats:
        return f"of {_FORMATS.get(max(formats), 'undefined')} samples, whose range is not known"
    if not _DEPTHS.issuperset(kind.bits):
        return f"of {max(kind.bits)}-bit samples"
    if kind.compression not in _COMPRESSIONS:
        return f"of compression {kind.compression}"
    return ""


def _strange_colours(page: Directory, kind: PixelKind) -> str:
    if kind.photometric == _UNSAID:
        return "that does not say what its samples mean"
    if kind.photometric not in _KINDS:
        return f"in {_OTHER_COLOURS.get(kind.photometric, f'colours of kind {kind.photometric}')}"
    if page.number(Tag.INKS, 1) != 1:
        return "of other inks than CMYK"
    if (kind.bits, kind.extra) not in _KINDS[kind.photometric]:
        depths = ", ".join(map(str, kind.bits))
        return f"with channels of {depths} bits in colours of kind {kind.photometric}"
    if (kind.photometric, kind.compression) == (YCBCR, _UNCOMPRESSED) and not _is_plain(page):
        return "of YCbCr that is neither compressed nor full"
    return ""


def _strange_order(page: Directory, kind: PixelKind) -> str:
    is_grey = kind.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)
    if page.number(Tag.FILL_ORDER, 1) != 1 and not (is_grey and kind.bits[0] <= 8):
        return "whose bits are in reverse order"
    if kind.n_planes > 1 and (kind.photometric, kind.n_planes) not in _PLANAR:
        return "with a plane for each channel"
    if kind.n_planes > 1 and kind.bits[0] == 16 and kind.compression == _UNCOMPRESSED:
        return "with a plane for each channel of 16 bits"
    return ""


def _is_plain(page: Directory) -> bool:
    """If Y, Cb and Cr are there for each pixel, from 0 to 255, in the usual shares."""
    return (
        page.numbers(Tag.YCBCR_SUBSAMPLING) == (1, 1)
        and page.numbers(Tag.REFERENCE_BLACK_WHITE) in ((), _FULL_RANGE)
        and Tag.YCBCR_COEFFICIENTS not in page.entries
    )
