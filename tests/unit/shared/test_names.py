from __future__ import annotations

import doctest

import pytest

from twinlens.shared import names
from twinlens.shared.names import clean_name, clean_text, kind_of_other, last_part


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("cat.jpg", "cat.jpg"),
        ("2019/Été à Nice/IMG_0001.JPG", "2019/Été à Nice/IMG_0001.JPG"),
        ("C:\\Users\\me\\cat.jpg", "C:/Users/me/cat.jpg"),
        ("/srv/photos//cat.jpg", "srv/photos/cat.jpg"),
        ("../../etc/./passwd", "etc/passwd"),
        ("12:30.jpg", "12:30.jpg"),
        ("a\x1b[2Jb\r\nc\x85d\u2028e.jpg", "a[2Jbcde.jpg"),
        ("cat\u202egpj.exe", "catgpj.exe"),
        ("\u2066cat\u2069.jpg", "cat.jpg"),
        # A family of emojis is held together by joiners, and Persian needs them.
        ("👩\u200d👧.jpg", "👩\u200d👧.jpg"),
        ("Ni\udcf1o.jpg", "Ni\ufffdo.jpg"),
        ("..", ""),
        ("", ""),
        ("x" * 255, "x" * 255),
        ("x" * 256, "x" * 255),
        (f"{'a' * 200}/{'b' * 54}", f"{'a' * 200}/{'b' * 54}"),
        (f"{'a' * 200}/{'b' * 55}", "b" * 55),
        (f"{'a' * 200}/b/{'c' * 253}", f"b/{'c' * 253}"),
    ],
)
def test_what_is_kept_of_a_name(given: str, kept: str) -> None:
    assert clean_name(given) == kept


def test_a_name_of_a_megabyte_is_cleaned_in_one_pass() -> None:
    # With a pass for each folder, this would take hours.
    assert clean_name("a/" * 500_000) == "/".join("a" * 128)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("by the sea", "by the sea"),
        ("  two  spaces  ", "  two  spaces  "),
        ("a\nb\r\n\tc\x0bd\x85e\u2028f\u2029g", "a b c d e f g"),
        ("red\x1b[31m\x1b]0;owned\x07\x9b1A\x7f", "red[31m]0;owned1A"),
        ("\u202egpj.\u2066exe\u2069\u200f\u061c", "gpj.exe"),
        ("👩\u200d👧", "👩\u200d👧"),
        ("lone \ud800", "lone \ufffd"),
        ("../C:\\x" + "y" * 999, "../C:\\x" + "y" * 999),
        ("", ""),
    ],
)
def test_what_is_kept_of_a_text(given: str, kept: str) -> None:
    assert clean_text(given) == kept


@pytest.mark.parametrize(
    ("name", "part"), [("cat.jpg", "cat.jpg"), ("2019/a/cat.jpg", "cat.jpg"), ("", "")]
)
def test_the_last_part_of_a_name(name: str, part: str) -> None:
    assert last_part(name) == part


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("IMG_0001.JPG.json", "sidecar"),
        ("IMG_0001.JPG.supplemental-metadata.json", "sidecar"),
        ("a/IMG_0001.XMP", "sidecar"),
        ("IMG_0001.MOV", "video"),
        ("note.m4a", "audio"),
        ("index.html", "document"),
        ("more.zip", "archive"),
        ("Thumbs.db", "system file"),
        ("a/.DS_Store", "system file"),
        ("a/._IMG_0001.JPG", "system file"),
        ("__MACOSX/IMG_0001.JPG", "system file"),
        ("a/@eaDir/IMG_0001.JPG/SYNOPHOTO_THUMB_XL.jpg", "system file"),
        ("a\\@eaDir\\b.jpg", "system file"),
        ("Icon\r", "system file"),
        ("IMG_0001.JPG", None),
        ("IMG_0001.HEIC", None),
        ("DSC_1.NEF", None),
        ("json", None),
        ("a.mp4/b.jpg", None),
        ("thumbs.db.jpg", None),
        ("", None),
    ],
)
def test_what_is_no_picture_by_its_name(name: str, kind: str | None) -> None:
    assert kind_of_other(name) == kind


def test_examples() -> None:
    result = doctest.testmod(names)
    assert result.attempted > 0
    assert result.failed == 0
