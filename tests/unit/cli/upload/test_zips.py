"""Zip archives that are read on this side: which entries are pictures, and what others are."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from pathlib import Path

import pytest

from twinlens.cli.errors import CommandFailed
from twinlens.cli.upload.files import only_pictures
from twinlens.cli.upload.passed import PassedOver
from twinlens.cli.upload.picture_file import Unreadable
from twinlens.cli.upload.plan import Plan
from twinlens.cli.upload.zips import files_in_zip


def fail(error: OSError) -> None:
    raise error


JPEG = b"\xff\xd8\xff\xe0" + bytes(40)


def test_pictures_of_a_zip_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "val.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("val/1.jpg", "val/", "README.txt", "__MACOSX/._1.jpg", "2.PNG"):
            archive.writestr(name, f"bytes of {name}")
    files = list(files_in_zip(path, PassedOver(), fail))
    assert [(one.name, one.read()) for one in files] == [
        ("val/1.jpg", b"bytes of val/1.jpg"),
        ("2.PNG", b"bytes of 2.PNG"),
    ]
    assert files[0].path == path / "val" / "1.jpg"


def test_a_damaged_zip_entry_cannot_be_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "val.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", "first one")
        archive.writestr("b.jpg", "second one")
    path.write_bytes(path.read_bytes().replace(b"first one", b"first ONE", 1))
    bad, good = files_in_zip(path, PassedOver(), fail)
    with pytest.raises(Unreadable, match="CRC"):
        bad.read()
    assert good.read() == b"second one"


def test_an_entry_that_cannot_be_unpacked_is_told_alone(tmp_path: Path) -> None:
    path = tmp_path / "val.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("cut.jpg", "locked.jpg", "odd", "/good.jpg"):
            archive.writestr(name, name * 99)
        places = {one.filename: one.header_offset for one in archive.infolist()}
    content = bytearray(path.read_bytes())
    listing = content.index(b"PK\x01\x02")
    # Behind its header: what no deflated stream begins with.
    content[places["cut.jpg"] + 37 : places["cut.jpg"] + 41] = b"\xff" * 4
    for name, offset, value in (("locked.jpg", 8, 1), ("odd", 10, 99)):
        content[content.index(name.encode(), listing) - 46 + offset] = value
        content[places[name] + offset - 2] = value
    path.write_bytes(content)
    passed = PassedOver()
    *bad, good = only_pictures(files_in_zip(path, passed, fail), passed)
    assert not passed
    reasons = []
    for one in bad:
        with pytest.raises(Unreadable) as raised:
            one.read()
        reasons.append(str(raised.value))
    assert ["decompress" in reasons[0], "encrypted" in reasons[1]] == [True, True]
    assert "compression" in reasons[2]
    assert good.read() == b"/good.jpg" * 99
    assert good.path == path / "good.jpg"
    assert good.n_bytes == 9 * 99


def test_entries_are_known_by_name_and_by_what_they_hold(tmp_path: Path) -> None:
    path, lines = tmp_path / "takeout.zip", list[str]()
    linked = zipfile.ZipInfo("linked.jpg")
    linked.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/b", "a/b.json", "c.mp4", ".git/d.jpg", "@eaDir/e.jpg", "inner.zip", "../f"):
            archive.writestr(name, JPEG)
        for name in ("g.txt", "h", "i.jpg"):
            archive.writestr(name, b"no picture")
        archive.writestr("j.cr2", b"II*\0" + bytes(40))
        archive.writestr(linked, b"i.jpg")
    passed = PassedOver(lines.append)
    files = list(only_pictures(files_in_zip(path, passed, fail), passed))
    assert [file.name for file in files] == ["a/b", "f", "i.jpg"]
    assert {line.removeprefix(f"passed over {path}/") for line in lines} == {
        "a/b.json: sidecar",
        "c.mp4: video",
        ".git/d.jpg: hidden file",
        "@eaDir/e.jpg: system file",
        "inner.zip: archive",
        "g.txt: document",
        "h: other file",
        "j.cr2: raw photo",
        "linked.jpg: link",
    }


def test_names_made_by_windows_have_folders(tmp_path: Path) -> None:
    path = tmp_path / "windows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("2019/Nice/", b"")
        archive.writestr("2019/Nice/a.jpg", b"1")
    path.write_bytes(path.read_bytes().replace(b"2019/Nice/", b"2019\\Nice\\"))
    [file] = files_in_zip(path, PassedOver(), fail)
    assert (file.name, file.path, file.read()) == (
        "2019/Nice/a.jpg",
        path / "2019/Nice/a.jpg",
        b"1",
    )


def test_what_is_no_zip_is_told(tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_text("no archive")
    os.mkfifo(tmp_path / "pipe.zip")
    for name, reason in (("no.zip", "not a zip file"), ("pipe.zip", "it is a pipe")):
        told = rf"{name}: it cannot be read as a zip archive: .*{reason}"
        with pytest.raises(CommandFailed, match=told):
            Plan([tmp_path / name]).measure()


def test_names_are_read_as_the_service_does(tmp_path: Path) -> None:
    path = tmp_path / "names.zip"
    unicode_path = "й.jpg".encode()
    field = b"\x01" + zlib.crc32(b"n3.jpg").to_bytes(4, "little") + unicode_path
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("é.jpg", "n1.jpg", "n2.jpg"):
            archive.writestr(name, b"1")
        named = zipfile.ZipInfo("n3.jpg")
        named.extra = b"\x75\x70" + len(field).to_bytes(2, "little") + field
        archive.writestr(named, b"1")
    # UTF-8 that is not said to be it, and what is not UTF-8.
    content = path.read_bytes().replace(b"n1.jpg", "é.jp".encode() + b"g")
    path.write_bytes(content.replace(b"n2.jpg", b"\x82x.jpg"))
    names = [one.name for one in files_in_zip(path, PassedOver(), fail)]
    assert names == ["é.jpg", "é.jpg", "éx.jpg", "й.jpg"]
