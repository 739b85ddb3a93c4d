"""The list of labelled pictures: what is read, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import pytest

from twinlens.models.errors import BadInput
from twinlens.models.workbench.labels import Labelled, read_labels

Form = Literal["NFC", "NFD"]


def write_list(folder: Path, text: str, files: str = "abcdef") -> Path:
    for name in files:
        (folder / f"{name}.jpg").touch()
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


GOOD = "file,label\na.jpg,cat\nb.jpg,cat\nc.jpg,cat\nd.jpg,dog\n"


def test_a_list_is_read_in_its_order(tmp_path: Path) -> None:
    pictures = read_labels(write_list(tmp_path, GOOD))

    assert pictures[0] == Labelled(tmp_path / "a.jpg", "cat")
    assert [picture.label for picture in pictures] == ["cat", "cat", "cat", "dog"]


def test_columns_may_have_any_order_case_and_company_and_lines_may_repeat(tmp_path: Path) -> None:
    text = '\ufeffFILE, Label ,licence\na.jpg,"red, round",x\n\na.jpg,"red, round",x\n'
    text += 'b.jpg,"red, round",x\nc.jpg,"red, round",x\nd.jpg,dog,x\ne.jpg,,x\n'

    pictures = read_labels(write_list(tmp_path, text))

    assert [picture.label for picture in pictures] == ["red, round"] * 3 + ["dog", ""]


def test_a_picture_may_say_where_it_is_from(tmp_path: Path) -> None:
    text = GOOD.replace("\n", ",shop\n").replace("label,shop", "label,Source")

    pictures = read_labels(write_list(tmp_path, text.replace("d.jpg,dog,shop", "d.jpg,dog")))

    assert [picture.source for picture in pictures] == ["shop", "shop", "shop", ""]


def test_files_may_lie_in_a_folder_photos_beside_the_list(tmp_path: Path) -> None:
    path = write_list(tmp_path, GOOD, files="ab")
    (tmp_path / "photos").mkdir()
    for name in "acd":
        (tmp_path / "photos" / f"{name}.jpg").touch()

    names = [picture.path.relative_to(tmp_path).as_posix() for picture in read_labels(path)]

    assert names == ["a.jpg", "b.jpg", "photos/c.jpg", "photos/d.jpg"]


@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_compared_in_one_normal_form(tmp_path: Path, listed: Form, stored: Form) -> None:
    text = "file,label\nété/é.jpg,cat\na.jpg,cat\nb.jpg,cat\nc.jpg,dog\n"
    path = write_list(tmp_path, normalize(listed, text), files="abc")
    file = tmp_path / "photos" / normalize(stored, "été") / normalize(stored, "é.jpg")
    file.parent.mkdir(parents=True)
    file.touch()

    assert read_labels(path)[0].path == file


def test_a_name_that_is_there_as_it_is_counts_first(tmp_path: Path) -> None:
    text = normalize("NFC", "file,label\né.jpg,cat\na.jpg,cat\nb.jpg,cat\nc.jpg,dog\n")
    path = write_list(tmp_path, text, files="abc")
    for form in ("NFC", "NFD"):
        (tmp_path / normalize(form, "é.jpg")).touch()

    assert read_labels(path)[0].path.name == normalize("NFC", "é.jpg")


def test_names_may_have_the_separators_of_windows(tmp_path: Path) -> None:
    path = write_list(tmp_path, GOOD.replace("a.jpg", "below\\é.jpg"), files="bcd")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / normalize("NFD", "é.jpg")).touch()

    assert read_labels(path)[0].path.parent.name == "below"


def test_a_pipe_is_no_list_and_no_picture(tmp_path: Path) -> None:
    path = write_list(tmp_path, GOOD, files="bcd")
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(BadInput, match=r"names 1 files that are not there: a\.jpg"):
        read_labels(path)
    with pytest.raises(BadInput, match=r"a\.jpg cannot be read: it is a pipe"):
        read_labels(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has the columns \(none\).*name file and label too"),
        ("file;label\na.jpg;cat\n", "has the columns file;label.*with commas"),
        ("file,coarse\na.jpg,cat\n", "has the columns file, coarse; .* name label too"),
        ("file,label\n", "has 0 labels; at least 2"),
        ("file,label\na.jpg,cat\nb.jpg,cat\nc.jpg,cat\nd.jpg,\n", "has 1 labels; at least 2"),
        ("file,label\na.jpg,cat\nb.jpg,cat\nc.jpg,dog\n", "no label has 3 .* 'cat' with 2"),
        ("file,label\na.jpg,cat\n,dog\n", "line 3: no file is named"),
        ("file,label\na.jpg,cat\na.jpg,dog\n", "line 3: a.jpg has the label 'dog' here and 'cat'"),
        (GOOD + "x.jpg,dog\n", "names 1 files that are not there: x.jpg; .* photos/"),
        (
            GOOD + "".join(f"x{i}.jpg,dog\n" for i in range(5)),
            "5 files .*: x0.jpg, x1.jpg, x2.jpg, …",
        ),
        (GOOD + f"{'x' * 5000}.jpg,dog\n", "names 1 files"),
        (GOOD + f"{'x' * 200_000},dog\n", "is not CSV: field larger"),
    ],
)
def test_a_list_that_cannot_be_used_says_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_labels(write_list(tmp_path, text))


def test_a_list_that_is_not_there_or_no_text_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"labels.csv cannot be read: No such file"):
        read_labels(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_bytes(b"file,label\na.jpg,K\xe4se\n")
    with pytest.raises(BadInput, match="not UTF-8"):
        read_labels(tmp_path / "labels.csv")
