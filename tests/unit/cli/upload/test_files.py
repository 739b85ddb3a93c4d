"""Which files of a folder are pictures, what they are called, and what is told of the others."""

from __future__ import annotations

import os
import socket
from pathlib import Path, PurePath
from typing import Any

import pytest

from twinlens.cli.errors import CommandFailed
from twinlens.cli.upload.files import (
    Walk,
    archive_type,
    find_archives,
    find_pictures,
    only_pictures,
)
from twinlens.cli.upload.passed import PassedOver
from twinlens.cli.upload.picture_file import Unreadable
from twinlens.cli.upload.plan import Plan

JPEG = b"\xff\xd8\xff\xe0" + bytes(40)


class Looked:
    """What a walk through paths gave, counted and complained of."""

    def __init__(self, *paths: Path) -> None:
        self.lines: list[str] = []
        self.errors: list[OSError] = []
        self.passed = PassedOver(self.lines.append)
        walk = Walk(paths, self.passed, self.errors.append)
        self.files = list(only_pictures(walk.files(), self.passed))

    @property
    def names(self) -> list[str]:
        return sorted(file.name for file in self.files)

    @property
    def kinds(self) -> dict[str, str]:
        """Kinds of what was passed over, by the last parts of their paths."""
        pairs = (line.removeprefix("passed over ").split(": ") for line in self.lines)
        return {path.rpartition("/")[2]: kind for path, kind in pairs}


def make(folder: Path, *names: str, content: bytes = b"") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_pictures_are_known_by_what_they_hold(tmp_path: Path) -> None:
    names = ("a.jfif", "IMG_1.HEIC", "b.jpg_large", "e.mpo", "none", "odd.dat", "below/f.Jpg")
    make(tmp_path, *names, content=JPEG)
    make(tmp_path, "notes", content=b"no picture")
    looked = Looked(tmp_path)
    assert looked.names == sorted(names)
    assert looked.kinds == {"notes": "other file"}


def test_what_is_called_a_picture_is_sent_whatever_it_holds(tmp_path: Path) -> None:
    suffixes = ["jpg", "jpeg", "jpe", "png", "gif", "webp", "tif", "tiff", "bmp", "avif", "HEIC"]
    make(tmp_path, *(f"a.{suffix}" for suffix in suffixes), content=b"<html>")
    make(tmp_path, "empty.jpg")
    assert len(Looked(tmp_path).files) == len(suffixes) + 1


def test_nothing_is_opened_whose_name_tells(tmp_path: Path, monkeypatch: Any) -> None:
    make(tmp_path, "a.jpg", "a.jpg.json", "b.mov", "notes.txt", content=JPEG)
    monkeypatch.setattr(Path, "open", None)
    looked = Looked(tmp_path)
    assert looked.names == ["a.jpg"]
    assert looked.kinds == {"a.jpg.json": "sidecar", "b.mov": "video", "notes.txt": "document"}


def test_names_keep_the_folders_below_what_was_given(tmp_path: Path) -> None:
    make(tmp_path, "Photos/2019/Été à Nice/IMG_0001.JPG", "Photos/top.jpg", "single/one.jpg")
    assert Looked(tmp_path / "Photos", tmp_path / "single" / "one.jpg").names == [
        "2019/Été à Nice/IMG_0001.JPG",
        "one.jpg",
        "top.jpg",
    ]
    assert Looked(tmp_path / "Photos" / "2019").names == ["Été à Nice/IMG_0001.JPG"]


def test_a_folder_is_named_from_where_one_stands(tmp_path: Path, monkeypatch: Any) -> None:
    make(tmp_path, "Photos/2019/a.jpg")
    monkeypatch.chdir(tmp_path / "Photos" / "2019")
    assert Looked(Path()).names == ["a.jpg"]
    assert Looked(Path("..")).names == ["2019/a.jpg"]


def test_what_is_hidden_or_of_a_system_is_counted(tmp_path: Path) -> None:
    make(tmp_path, ".a.jpg", ".git/b.jpg", "@eaDir/c.jpg", "Thumbs.db", "._d.jpg", content=JPEG)
    assert Looked(tmp_path).kinds == {
        ".a.jpg": "hidden file",
        ".git": "hidden folder",
        "@eaDir": "system folder",
        "Thumbs.db": "system file",
        "._d.jpg": "system file",
    }
    # What is named is looked into all the same.
    assert Looked(tmp_path / ".git", tmp_path / ".a.jpg").names == [".a.jpg", "b.jpg"]


def test_pipes_sockets_and_devices_are_passed_over_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "pipe")
    (tmp_path / "c.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(tmp_path)  # the name of a socket is short
        try:
            listening.bind("d.jpg")
        finally:
            os.chdir(here)
        kinds = Looked(tmp_path).kinds
    pipes = {"a.jpg": "pipe", "pipe": "pipe", "b.jpg": "pipe"}
    assert kinds == {**pipes, "c.jpg": "device", "d.jpg": "socket"}
    [named] = Looked(tmp_path / "a.jpg").files
    with pytest.raises(Unreadable, match="it is a pipe; give a file"):
        named.read()


def test_linked_folders_are_entered_once_and_loops_end(tmp_path: Path) -> None:
    make(tmp_path, "photos/below/c.jpg", "elsewhere/b.jpg", "elsewhere/deep/d.jpg")
    (tmp_path / "photos" / "round").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "photos" / "below")
    (tmp_path / "photos" / "a.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    looked = Looked(tmp_path / "photos")
    # What is in the folder itself is not called by a link to it.
    assert looked.names == ["a.jpg", "below/c.jpg", "linked/b.jpg", "linked/deep/d.jpg"]
    assert looked.kinds == {"round": "repeated folder", "back": "repeated folder"}


def test_links_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    (tmp_path / "lost").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    looked = Looked(tmp_path)
    assert looked.kinds == {"lost": "dangling link", "circle": "dangling link"}
    # What is called a picture fails as one.
    [file] = looked.files
    with pytest.raises(Unreadable, match="No such file"):
        file.read()


def test_what_cannot_be_opened_fails_as_a_picture(tmp_path: Path, monkeypatch: Any) -> None:
    make(tmp_path, "locked", "open", content=JPEG)
    really = Path.open

    def refuse(path: Path, *args: Any) -> Any:
        # As root every file can be read.
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return really(path, *args)

    monkeypatch.setattr(Path, "open", refuse)
    looked = Looked(tmp_path)
    assert looked.names == ["locked", "open"]
    [locked] = [file for file in looked.files if file.name == "locked"]
    with pytest.raises(Unreadable, match="Permission denied"):
        locked.read()
    # Where no reason can be told to anybody, it is left out.
    assert [path.name for path in find_pictures(tmp_path)] == ["open"]


def test_no_path_is_given_twice_whatever_is_named(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "b.jpg", "below/c.jpg")
    (tmp_path / "linked").symlink_to(tmp_path / "below")
    twice = (tmp_path, tmp_path / "below", tmp_path / "linked", tmp_path / "below" / ".." / "a.jpg")
    for paths in (twice, twice[::-1], (tmp_path, tmp_path)):
        looked = Looked(*paths)
        assert sorted(file.path.name for file in looked.files) == ["a.jpg", "b.jpg", "c.jpg"]
    assert Looked(tmp_path / "a.jpg", tmp_path / "below" / ".." / "a.jpg").names == ["a.jpg"]
    # Two names of one file are two paths.
    (tmp_path / "d.jpg").hardlink_to(tmp_path / "a.jpg")
    assert Looked(tmp_path / "a.jpg", tmp_path / "d.jpg").names == ["a.jpg", "d.jpg"]


def test_what_was_passed_over_is_summed_up(tmp_path: Path) -> None:
    passed = PassedOver()
    assert not passed
    for kind, n in (("sidecar", 8), ("video", 3), ("hidden file", 1), ("hidden folder", 1)):
        for _ in range(n):
            passed.add(tmp_path, kind)
    assert str(passed) == (
        "passed over 12 files and 1 folder: 8 sidecars, 3 videos, 1 hidden file, 1 hidden folder;"
        " -v names them"
    )


def test_what_is_said_of_a_file_cannot_upset_a_terminal() -> None:
    lines: list[str] = []
    passed = PassedOver(lines.append)
    passed.add(PurePath("a\x1b[31m\nb\u202e"), "video")
    assert lines == ["passed over a[31mb: video"]
    assert str(passed) == "passed over 1 file: 1 video"


def test_archives_are_known_by_their_names_and_not_looked_for(tmp_path: Path) -> None:
    make(tmp_path, "more.zip", "x.tar.GZ", "l.ndjson", "below/inner.zip", "a.png")
    (tmp_path / "photos.zip").mkdir()
    make(tmp_path, "photos.zip/b.jpg")
    named = [tmp_path / name for name in ("more.zip", "x.tar.GZ", "l.ndjson", "photos.zip")]
    assert [path.name for path in find_archives(named)] == ["l.ndjson", "more.zip", "x.tar.GZ"]
    looked = Looked(tmp_path / "below", *named)
    assert looked.names == ["b.jpg"]
    assert looked.kinds == {"inner.zip": "archive"}


def test_what_is_named_is_sent_whatever_it_is_called(tmp_path: Path) -> None:
    make(tmp_path, "notes.txt")
    assert Looked(tmp_path / "notes.txt").names == ["notes.txt"]


def test_why_there_is_nothing_to_upload_is_told(tmp_path: Path) -> None:
    make(tmp_path, "a.json", "b.nef")
    told = (
        r"there is no picture in .* \(passed over 2 files: 1 raw photo, 1 sidecar; -v names them\)"
    )
    with pytest.raises(CommandFailed, match=told):
        find_pictures(tmp_path)
    with pytest.raises(CommandFailed, match=told):
        Plan([tmp_path]).measure()
    with pytest.raises(CommandFailed, match=r"there is no picture in \S+$"):
        Plan([make_empty(tmp_path / "empty")]).measure()


def make_empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.zip", "application/zip"),
        ("a.b.ZIP", "application/zip"),
        ("a.tar", "application/x-tar"),
        ("a.tar.gz", "application/gzip"),
        ("a.tgz", "application/gzip"),
        ("a.tar.zst", "application/zstd"),
        ("a.ndjson", "application/x-ndjson"),
        ("a.gz", None),
        ("zip", None),
        ("a.jpg", None),
    ],
)
def test_an_archive_is_known_by_its_name(name: str, media_type: str | None) -> None:
    assert archive_type(Path(name)) == media_type


def test_a_name_that_is_not_utf8_is_sent_with_marks(tmp_path: Path) -> None:
    make(tmp_path, "below/a.jpg")
    (tmp_path / "below").rename(tmp_path / os.fsdecode(b"\xe9t\xe9"))
    [file] = Looked(tmp_path).files
    assert file.name == "\ufffdt\ufffd/a.jpg"
    assert file.read() == b""


def test_of_a_path_that_is_too_long_the_end_is_the_name(tmp_path: Path) -> None:
    make(tmp_path, "/".join(["x" * 100] * 3 + ["a.jpg"]))
    [file] = Looked(tmp_path).files
    assert file.name == "/".join(["x" * 100] * 2 + ["a.jpg"])


def test_what_goes_away_meanwhile_fails(tmp_path: Path) -> None:
    make(tmp_path, "a", "b.jpg", content=JPEG)
    passed = PassedOver()
    sources = Walk([tmp_path], passed, lambda _: None).files()
    first = next(sources)
    for path in tmp_path.iterdir():
        path.unlink()
    both = list(only_pictures([first, *sources], passed))
    assert len(both) == 2
    assert not passed
    for file in both:
        with pytest.raises(Unreadable, match="No such file"):
            file.read()


def test_a_folder_that_cannot_be_read_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    # As root every folder can be read, so one goes away meanwhile.
    (tmp_path / "below").mkdir()
    complaints: list[OSError] = []
    files = Walk([tmp_path], PassedOver(), complaints.append).files()
    next(files)
    (tmp_path / "below").rmdir()
    assert len(list(files)) == 2
    assert [one.filename for one in complaints] == [str(tmp_path / "below")]
