"""Names in any script on a contact sheet."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, features

from twinlens.cli.show.lettering import Lettering


def lettering() -> Lettering:
    return Lettering(ImageDraw.Draw(Image.new("RGB", (1, 1))), 13)


def drawn(text: str) -> bytes:
    """Returns the pixels of a line."""
    image = Image.new("L", (600, 40), 255)
    Lettering(ImageDraw.Draw(image), 13).write(0, 5, text, "black")
    return image.tobytes()


def columns(text: str) -> NDArray[np.uint8]:
    """Returns the pixels of a line, uint8 [height, width], without empty columns at its ends."""
    image = Image.new("L", (600, 40), 255)
    Lettering(ImageDraw.Draw(image), 13).write(0, 5, text, "black")
    pixels = np.asarray(image)
    [inked] = np.nonzero((pixels < 255).any(axis=0))
    return pixels[:, inked[0] : inked[-1] + 1]


NAMES = {
    "Latin": "Été à Nice, Ảnh đẹp",
    "Cyrillic": "Фото",
    "Greek": "Ελλάδα",
    "Chinese": "北京故宫",
    "Japanese": "東京タワー",
    "Korean": "서울타워",
    "Arabic": "صورة",
    "Hebrew": "תמונה",
    "Hindi": "हिन्दी",
    "Thai": "ภาพ",
    "Tamil": "தமிழ்",
    "emoji": "😀🎉",
    "symbols": "★→½",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_every_letter_is_drawn_as_itself(name: str) -> None:
    for letter in name:
        # A letter that no font has is drawn as its number, which begins like this.
        assert drawn(letter) != drawn(f"\\u{{{ord(letter):x}}}")
    letters = {letter for letter in name if letter.isalpha()}
    assert len({drawn(letter) for letter in letters}) == len(letters)


@pytest.mark.parametrize("name", ["𒀀.jpg", "\U0010ffff"])
def test_what_no_font_has_is_written_as_its_number(name: str) -> None:
    number = f"\\u{{{ord(name[0]):x}}}"
    assert drawn(name) == drawn(name.replace(name[0], number))


@pytest.mark.skipif(not features.check("raqm"), reason="this Pillow has no libraqm")
def test_letters_join_and_run_from_right_to_left() -> None:
    # Joined, they are narrower than each alone.
    text = lettering()
    assert text.width_px("صورة") < sum(map(text.width_px, "صورة"))
    # The first of two words is the right one, though a space of another font is between.
    first, both = columns("א"), columns("א ת")
    assert (both[:, -first.shape[1] :] == first).all()


def test_a_mark_goes_with_its_letter_whatever_font_has_it() -> None:
    assert drawn("e\u0301") == drawn("é")
    assert drawn("❤\ufe0f") == drawn("❤")


def test_a_long_name_keeps_its_beginning_and_its_end_within_the_width() -> None:
    text = lettering()
    for name in ("2019/Nice/summer/IMG_0001.JPG", "北京/" * 9 + "末.jpg", "𒀀" * 40 + ".jpg"):
        shorter = text.shortened(name, 150)
        assert text.width_px(shorter) <= 150
        head, tail = shorter.split("…")
        assert len(head) == 5
        assert name.endswith(tail[-4:])
    assert text.shortened("short.jpg", 150) == "short.jpg"
