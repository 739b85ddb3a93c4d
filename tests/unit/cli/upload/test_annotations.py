"""Which metadata is of which picture, by the paths that a file has for them."""

from __future__ import annotations

import unicodedata
from pathlib import Path, PurePosixPath
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinlens.cli.upload.annotations import Annotations


def named(*names: str) -> Annotations:
    """Annotations whose metadata is the place in the list, from 1."""
    return Annotations((name, {"coco_id": n}) for n, name in enumerate(names, start=1))


def ids(annotations: Annotations, *paths: str) -> list[int | None]:
    """Returns whose metadata pictures get, once all are noted."""
    pictures = [PurePosixPath(path) for path in paths]
    for picture in pictures:
        annotations.note(picture)
    taken = [annotations.take(picture) for picture in pictures]
    assert taken == [annotations.of(picture) for picture in pictures]
    return [metadata.get("coco_id") for metadata in taken]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a.jpg", "/photos/val2017.zip/val2017/a.jpg"),
        ("images\\one.jpg", "/photos/images/one.jpg"),
        ("images/one.jpg", "/photos/images\\one.jpg"),
        ("./train/a.jpg", "/x/train/a.jpg"),
        ("/home/me/coco/images/train/a.jpg", "/data/train/a.jpg"),
        ("C:\\coco\\train\\a.jpg", "/data/train/a.jpg"),
        ("images/train/a.jpg", "/data/a.jpg"),
        ("../train/a.jpg", "/data/train/a.jpg"),
        ("\u00e9t\u00e9/\u00e9.jpg", "/data/e\u0301te\u0301/e\u0301.jpg"),
        ("e\u0301t.jpg", "/data/\u00e9t.jpg"),
    ],
)
def test_a_picture_is_known_by_the_end_of_its_path(name: str, path: str) -> None:
    assert ids(named(name, "other.jpg"), path) == [1]


def test_the_longest_end_counts() -> None:
    names = ("1.jpg", "b/1.jpg", "x/y/2.jpg", "z/y/2.jpg")
    assert ids(named(*names), "/a/b/1.jpg", "/a/c/1.jpg", "/q/z/y/2.jpg") == [2, 1, 4]
    # Before the pictures are noted, each is looked at alone.
    assert named(*names).of(PurePosixPath("/a/c/1.jpg")) == {"coco_id": 1}


def test_folders_above_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "val").mkdir()
    monkeypatch.chdir(tmp_path / "val")
    assert ids(named("train/1.jpg", "val/1.jpg"), "1.jpg") == [2]


def test_what_fits_another_picture_better_is_not_taken() -> None:
    annotations = named("train/9.jpg")
    assert ids(annotations, "/data/val/9.jpg", "/data/train/9.jpg") == [None, 1]
    assert str(annotations) == "annotations: 1 picture with, 1 without"


def test_what_is_unclear_is_told_and_not_guessed() -> None:
    of_two_images = named("a/1.jpg", "b/1.jpg")
    assert ids(of_two_images, "/data/1.jpg") == [None]
    assert "1 picture left without, as several images" in str(of_two_images)
    assert "fit equally well: /data/1.jpg" in str(of_two_images)
    of_two_pictures = named("1.jpg")
    assert ids(of_two_pictures, "/data/a/1.jpg", "/data/b/1.jpg") == [None, None]
    assert "2 pictures left without" in str(of_two_pictures)
    assert "1 image of the file without a picture here" in str(of_two_pictures)
    many = named("1.jpg")
    ids(many, *(f"/data/{n}/1.jpg" for n in range(5)))
    assert str(many).endswith("/data/0/1.jpg, /data/1/1.jpg, /data/2/1.jpg, …")


def test_an_image_that_is_listed_twice_is_unclear_unless_both_say_the_same() -> None:
    assert ids(named("1.jpg", "./1.jpg"), "/data/1.jpg") == [None]
    same = Annotations([("1.jpg", {"coco_id": 1}), ("1.jpg", {"coco_id": 1})])
    assert ids(same, "/data/1.jpg") == [1]


def test_what_was_found_elsewhere_is_told() -> None:
    annotations = named("train/1.jpg", "train/2.jpg")
    assert ids(annotations, "/data/1.jpg", "/data/2.jpg") == [1, 2]
    told = "2 by the end of the path alone, as train/1.jpg for /data/1.jpg"
    assert told in str(annotations)


folders = st.lists(st.sampled_from(["a", "é", "x y", "images"]), max_size=3)
Form = Literal["NFC", "NFD"]
forms: st.SearchStrategy[Form] = st.sampled_from(["NFC", "NFD"])


@given(st.lists(folders, min_size=1, max_size=6), folders, folders, forms, forms, st.booleans())
def test_pictures_with_names_of_their_own_are_found_wherever_both_sides_were(
    places: list[list[str]],
    roots: list[str],
    other_roots: list[str],
    form: Form,
    other_form: Form,
    is_of_windows: bool,
) -> None:
    paths = ["/".join([*place, f"é{n}.jpg"]) for n, place in enumerate(places)]
    separator = "\\" if is_of_windows else "/"
    names = [separator.join([*roots, *path.split("/")]) for path in paths]
    annotations = named(*(unicodedata.normalize(form, name) for name in names))
    pictures = ["/" + "/".join([*other_roots, path]) for path in paths]
    pictures = [unicodedata.normalize(other_form, picture) for picture in pictures]
    assert ids(annotations, *pictures) == list(range(1, len(paths) + 1))
