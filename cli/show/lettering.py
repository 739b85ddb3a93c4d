r"""Texts in any script on a picture: each stretch in the first font that has its letters.

What no font has is written as its number, `\u{12000}`, and never as an empty box. Letters that
join, and those that run from right to left, are set by libraqm, which is in Pillow's wheels.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from importlib.resources import files
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import ImageDraw

# Of names, the end tells pictures of one folder apart.
N_FIRST_CHARS = 5
REGULAR = 400
_NOBODY_HAS = "\U0010ffff"
# They change what stands before them, and are drawn by its font if at all.
_JOINERS = {"\u200c", "\u200d", "\ufe0e", "\ufe0f"}


class Lettering:
    """Writes on one picture, in one size."""

    def __init__(self, draw: ImageDraw.ImageDraw, size_px: int) -> None:
        """Writes nothing yet.

        Args:
            draw: The picture.
            size_px: How large letters are.
        """
        self._draw = draw
        self._size_px = size_px

    def write(self, left: int, top: int, text: str, colour: str) -> None:
        """Writes a line."""
        # Fonts differ in how far they go up: all stand on the line of the first.
        below = top + _open(_paths()[0], self._size_px).getmetrics()[0]
        at = float(left)
        for path, stretch in _stretches(text):
            font = self._font(path, stretch)
            self._draw.text((at, below), stretch, colour, font, anchor="ls")
            at += font.getlength(stretch)

    def width_px(self, text: str) -> float:
        """Returns how wide a line is."""
        return sum(
            self._font(path, stretch).getlength(stretch) for path, stretch in _stretches(text)
        )

    def shortened(self, text: str, max_px: int) -> str:
        """Returns a text that fits: its beginning, `…`, and as much of its end as has room."""
        text = _drawable(text)
        if self.width_px(text) <= max_px:
            return text
        for place in range(N_FIRST_CHARS + 1, len(text)):
            shorter = f"{text[:N_FIRST_CHARS]}…{text[place:]}"
            if not _joins(text[place]) and self.width_px(shorter) <= max_px:
                return shorter
        return "…"

    def _font(self, path: Path, stretch: str) -> ImageFont.FreeTypeFont:
        # In small sizes libraqm leaves gaps between Latin letters: they are hinted, its steps not.
        return _open(path, self._size_px, is_plain=stretch.isascii())


def _drawable(text: str) -> str:
    """Returns a text with numbers in place of what no font has."""
    return "".join(one if _font_of(one) or _joins(one) else f"\\u{{{ord(one):x}}}" for one in text)


def _stretches(text: str) -> list[tuple[Path, str]]:
    """Divides a text into stretches of one font."""
    written = _drawable(text)
    fonts = list[Path]()
    for one in written:
        before = fonts[-1] if fonts else _paths()[0]
        fonts.append(before if _joins(one) else _font_of(one) or before)
    _bridge(written, fonts)
    pairs = groupby(zip(fonts, written, strict=True), key=itemgetter(0))
    return [(font, "".join(one for _, one in pair)) for font, pair in pairs]


def _bridge(text: str, fonts: list[Path]) -> None:
    """Gives what is no letter, between two stretches of a font, to that font, if it has it.

    So words that run from right to left, with a space between, keep their order.
    """
    last = 0  # where the last letter of a font other than the first stands
    for place, font in enumerate(fonts):
        if font == _paths()[0]:
            continue
        between = range(last + 1, place)
        if fonts[last] == font and all(
            not text[one].isalpha() and _has(font, text[one]) for one in between
        ):
            for one in between:
                fonts[one] = font
        last = place


def _joins(letter: str) -> bool:
    return letter in _JOINERS or unicodedata.category(letter) in {"Mn", "Mc", "Me"}


@cache
def _font_of(letter: str) -> Path | None:
    return next((path for path in _paths() if _has(path, letter)), None)


@cache
def _has(path: Path, letter: str) -> bool:
    """Tells if a font draws a letter otherwise than one that no font has."""
    drawn, box = (_open(path, 20, is_plain=True).getmask(one) for one in (letter, _NOBODY_HAS))
    return (drawn.size, bytes(drawn)) != (box.size, bytes(box))


@cache
def _open(path: Path, size_px: int, *, is_plain: bool = False) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(
        path, size_px, layout_engine=ImageFont.Layout.BASIC if is_plain else None
    )
    font.set_variation_by_axes([REGULAR])
    return font


@cache
def _paths() -> Sequence[Path]:
    """The fonts: Latin, Greek and Cyrillic first, Chinese, Japanese and Korean last."""
    upright = [path for path in _files("manimgx_fonts", "ttf") if "Italic" not in path.name]
    latin_first = sorted(upright, key=lambda path: (not path.name.startswith("NotoSans["), path))
    return [*latin_first, *_files("manimgx_fonts_cjk", "ttc")]


def _files(package: str, suffix: str) -> list[Path]:
    return sorted(Path(str(files(package))).glob(f"*.{suffix}"))
