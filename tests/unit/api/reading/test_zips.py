"""ZIP archives as others write them, also badly: what is taken, and why the rest is not."""

from __future__ import annotations

import random
import struct
import tracemalloc
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.archives import (
    ENCRYPTED,
    LIMIT,
    OPEN,
    SPOOLER,
    UTF8,
    Unseekable,
    Written,
    read_zip,
    told,
    written_zip,
    zip_of,
)

from twinlens.api.reading import zip_records
from twinlens.api.reading.archives import MAX_RATIO, RATIO_GRACE_BYTES
from twinlens.api.reading.byte_streams import BLOCK_BYTES, ByteStream
from twinlens.api.reading.spools import Spooler
from twinlens.api.reading.zips import zip_entries
from twinlens.shared.errors import BadArchive, StorageFull

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFLATED, STORED, BZIP2 = zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2
A = Written(b"a.jpg", b"first")
B = Written(b"b.jpg", b"second")
# As photo servers write albums: stored, with sizes behind the bytes and in the directory alone.
UNTOLD = Written(b"u.jpg", b"untold", flags=OPEN)
BAD = "bad-archive"
END_BYTES = 22


def fail(n_bytes: int) -> None:
    raise StorageFull("There is no room.")


FULL = Spooler(SPOOLER.folder, fail)


# Entries whose end is told behind them.


@pytest.mark.parametrize("is_signed", [True, False])
@pytest.mark.parametrize("is_wide", [True, False])
@pytest.mark.parametrize("method", [STORED, DEFLATED, BZIP2])
def test_descriptors_of_each_layout(method: int, is_wide: bool, is_signed: bool) -> None:
    entry = Written(method=method, flags=OPEN, is_signed=is_signed, is_wide=is_wide)
    entries = [replace(entry, name=b"%d" % n, content=b"content %d" % n) for n in range(3)]
    whole = written_zip(*entries, is_wide=is_wide)
    assert told(read_zip(whole)) == [(f"{n}", b"content %d" % n) for n in range(3)]


@pytest.mark.parametrize("method", [DEFLATED, BZIP2])
def test_what_tells_its_end_does_not_wait(method: int) -> None:
    folder = Written(b"folder/", b"", flags=OPEN)
    sized = Written(b"sized.jpg", b"picture", flags=OPEN, told=7)
    empty = Written(b"empty.jpg", b"", method, OPEN)
    whole = written_zip(A, folder, replace(B, method=method, flags=OPEN), sized, empty)
    entries = list(zip_entries([whole], 9, LIMIT, FULL))
    assert [entry.content for entry in entries] == [b"first", b"second", b"picture", b""]


def test_what_does_not_tell_its_end_is_read_by_the_directory() -> None:
    content = b"PK\x07\x08" + b"PK\x03\x04" + bytes(26) + b"PK\x01\x02" + b"PK\x05\x06" + bytes(18)
    entries = [A, UNTOLD, Written(b"tricky.jpg", content, flags=OPEN), B]
    assert told(read_zip(written_zip(*entries))) == [
        ("a.jpg", b"first"),
        ("u.jpg", b"untold"),
        ("tricky.jpg", content),
        ("b.jpg", b"second"),
    ]


def test_what_python_writes_into_a_connection_is_read() -> None:
    file = Unseekable()
    with zipfile.ZipFile(file, "w", STORED) as archive:
        for n in range(3):
            archive.writestr(f"{n}.jpg", b"content %d" % n)
        with archive.open("wide.jpg", "w", force_zip64=True) as entry:
            entry.write(b"wide")
    contents = [entry.content for entry in read_zip(bytes(file.written))]
    assert contents == [b"content 0", b"content 1", b"content 2", b"wide"]


def test_a_directory_may_be_in_another_order() -> None:
    whole = written_zip(A, UNTOLD, B, Written(b"c.jpg"), listed=[3, 0, 2, 1])
    assert [entry.name for entry in read_zip(whole)] == ["a.jpg", "c.jpg", "b.jpg", "u.jpg"]


def test_where_two_names_differ_that_of_the_directory_counts_once_it_is_read() -> None:
    renamed = [replace(entry, listed=b"listed.jpg") for entry in (A, UNTOLD)]
    assert [entry.name for entry in read_zip(written_zip(*renamed))] == ["a.jpg", "listed.jpg"]


def test_entries_of_one_name_are_pictures_each() -> None:
    whole = written_zip(A, A, UNTOLD, UNTOLD)
    assert len(read_zip(whole)) == 4


def test_entries_before_are_given_before_the_rest_arrives() -> None:
    content = random.Random(1).randbytes(2 * BLOCK_BYTES)
    whole = written_zip(Written(content=content), replace(UNTOLD, content=content))
    given: list[str] = []

    def body() -> Iterator[bytes]:
        yield whole[:-1000]
        given.append("the rest")
        yield whole[-1000:]

    entries = zip_entries(body(), 9, 10**6, SPOOLER)
    given.extend(entry.name for entry in entries)
    assert given == ["a.jpg", "the rest", "u.jpg"]


# What waits on the disk.


def test_what_has_no_room_on_the_disk_is_refused() -> None:
    entries = zip_entries([written_zip(A, UNTOLD)], 9, LIMIT, FULL)
    assert next(entries).content == b"first"
    with pytest.raises(StorageFull):
        next(entries)


def test_the_file_has_no_name_and_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "not there yet"
    handles = Path("/proc/self/fd")
    n_open = len(list(handles.iterdir()))
    entries = zip_entries([written_zip(UNTOLD, B)], 9, LIMIT, Spooler(folder, lambda _: None))
    assert next(entries).name == "u.jpg"
    assert len(list(handles.iterdir())) == n_open + 1
    assert list(folder.iterdir()) == []
    del entries
    assert len(list(handles.iterdir())) == n_open


def test_memory_does_not_grow_with_what_waits() -> None:
    content = random.Random(1).randbytes(1_000_000)
    entries = [Written(b"%d.jpg" % n, content, flags=OPEN) for n in range(40)]

    def body() -> Iterator[bytes]:
        directory, offset = b"", 0
        for entry in entries:
            local = entry.local()
            directory += entry.central(offset)
            offset += len(local)
            yield local
        yield directory
        yield struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 40, 40, len(directory), offset, 0)

    read_zip(written_zip(UNTOLD))  # what is loaded once is not counted
    tracemalloc.start()
    try:
        n_read = sum(len(entry.content) for entry in zip_entries(body(), 99, 10**6, SPOOLER))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert n_read == 40 * len(content)
    # Three: an entry as it is written here, and as it is read.
    assert peak_bytes < 8 * len(content)


# Entries that are refused, among others that are read.


@pytest.mark.parametrize("flags", [0, OPEN])
@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (Written(method=14), r"LZMA \(14\)"),
        (Written(method=9), r"Deflate64 \(9\)"),
        (Written(method=95), r"XZ \(95\)"),
        (Written(method=93), r"Zstandard \(93\)"),
        (Written(method=98), r"PPMd \(98\)"),
        (Written(method=77), r"method \(77\)"),
        (Written(flags=1 << 5), "packed with"),
        (Written(flags=ENCRYPTED), "is encrypted"),
        (Written(flags=ENCRYPTED | 1 << 6), "is encrypted"),
        (Written(method=99, flags=ENCRYPTED), "is encrypted"),
    ],
)
def test_what_cannot_be_unpacked(entry: Written, reason: str, flags: int) -> None:
    entry = replace(entry, name=b"x.jpg", flags=entry.flags | flags)
    whole = written_zip(A, entry, B)
    assert told(read_zip(whole)) == [("a.jpg", b"first"), ("x.jpg", BAD), ("b.jpg", b"second")]
    error = read_zip(whole)[1].error
    assert error is not None
    with pytest.raises(BadArchive, match=reason):
        raise BadArchive(error.detail)


BROKEN = b"\xff" + b"not deflated"
TWICE = Written(content=b"packed" * 100, method=DEFLATED).bytes_of_it
DAMAGED = {
    "CRC": Written(crc=1),
    "CRC of what is packed": Written(method=DEFLATED, crc=1),
    "open CRC": Written(method=DEFLATED, flags=OPEN, crc=1),
    "open CRC without signature": Written(method=DEFLATED, flags=OPEN, crc=1, is_signed=False),
    "open wide CRC": Written(method=BZIP2, flags=OPEN, crc=1, is_wide=True),
    "untold CRC": replace(UNTOLD, crc=1),
    "no deflate": Written(method=DEFLATED, packed=BROKEN),
    "open, no deflate": Written(method=DEFLATED, flags=OPEN, packed=BROKEN),
    "no bzip2": Written(method=BZIP2, packed=BROKEN),
    "cut": Written(content=b"packed" * 100, method=DEFLATED, packed=TWICE[:-4]),
    "size": Written(content=b"packed" * 99, method=DEFLATED, packed=TWICE, crc=0),
    "less": Written(content=b"picture", packed=b"pict"),
    "no descriptor": Written(method=DEFLATED, flags=OPEN, crc=1, is_signed=False, packed=TWICE),
    "wrong size": Written(flags=OPEN, told=5),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_damaged(name: str) -> None:
    whole = written_zip(A, replace(DAMAGED[name], name=b"x.jpg"), B, replace(UNTOLD, content=b"u"))
    assert told(read_zip(whole)) == [
        ("a.jpg", b"first"),
        ("x.jpg", BAD),
        ("b.jpg", b"second"),
        ("u.jpg", b"u"),
    ]


@pytest.mark.parametrize(
    "name", [name for name in DAMAGED if "CRC" in name and "untold" not in name]
)
def test_behind_a_wrong_crc_nothing_waits(name: str) -> None:
    damaged = replace(DAMAGED[name], name=b"x.jpg")
    assert len(list(zip_entries([written_zip(A, damaged, B, damaged)], 9, LIMIT, FULL))) == 4


def test_what_a_damaged_entry_took_with_it() -> None:
    """A block that claims to be long hides what comes next, and is found out in the next piece."""
    claim = b"\0" + struct.pack("<HH", 65_535, 0)
    entries = [
        Written(b"x.jpg", method=DEFLATED, flags=OPEN, packed=claim + b"short"),
        Written(b"lost.jpg", b"hidden"),
        Written(b"large.jpg", bytes(BLOCK_BYTES)),
        B,
    ]
    whole = written_zip(*entries)
    assert told(read_zip(whole, max_picture=10**6)) == [
        ("x.jpg", BAD),
        ("lost.jpg", BAD),
        ("large.jpg", BAD),
        ("b.jpg", b"second"),
    ]


def test_a_gap_between_entries_is_passed_by() -> None:
    gap = bytes(100)
    start = len(A.local()) + len(gap)
    directory = A.central(0) + B.central(start)
    offset = start + len(B.local())
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 2, 2, len(directory), offset, 0)
    whole = A.local() + gap + B.local() + directory + end
    assert told(read_zip(whole)) == [("a.jpg", b"first"), ("b.jpg", b"second")]


def test_an_entry_that_is_not_where_the_directory_says_is_refused() -> None:
    whole = bytearray(written_zip(UNTOLD, A, B, comment=b"PK\x03\x04"))
    place = whole.rindex(b"PK\x01\x02") + 42
    for offset in (len(UNTOLD.local() + A.local()) + 1, len(whole) - 4, 10**6):
        whole[place : place + 4] = struct.pack("<I", offset)
        entries = told(read_zip(bytes(whole)))
        assert entries == [("u.jpg", b"untold"), ("a.jpg", b"first"), ("b.jpg", BAD)]


@pytest.mark.parametrize("flags", [0, OPEN])
@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_an_empty_file_is_told_as_such(method: int, flags: int) -> None:
    whole = written_zip(A, Written(b"empty.txt", b"", method, flags), B)
    outcomes = told(read_zip(whole))
    assert outcomes == [("a.jpg", b"first"), ("empty.txt", "empty-picture"), ("b.jpg", b"second")]


# Names.


@pytest.mark.parametrize(
    ("raw", "flags", "path", "name"),
    [
        ("né.jpg".encode(), UTF8, None, "né.jpg"),
        (b"n\xe9.jpg", UTF8, None, "n\ufffd.jpg"),
        ("né.jpg".encode(), 0, None, "né.jpg"),
        (b"x\x82.jpg", 0, None, "xé.jpg"),
        (b"????.jpg", 0, "фото.jpg", "фото.jpg"),
        ("né.jpg".encode(), UTF8, "фото.jpg", "né.jpg"),
        (b"A: sunset.jpg", 0, None, "A: sunset.jpg"),
        (b"/root/a.jpg", 0, None, "/root/a.jpg"),
    ],
)
@pytest.mark.parametrize("open_", [0, OPEN])
def test_names(raw: bytes, flags: int, path: str | None, name: str, open_: int) -> None:
    extra = b"" if path is None else unicode_path(raw, path)
    [entry] = read_zip(written_zip(Written(raw, flags=flags | open_, extra=extra)))
    assert (entry.name, entry.content) == (name, b"picture")


def unicode_path(raw: bytes, path: str) -> bytes:
    field = b"\x01" + struct.pack("<I", zlib.crc32(raw)) + path.encode()
    # Behind others, as it may be.
    return struct.pack("<HHI", 0x7855, 4, 0) + struct.pack("<HH", 0x7075, len(field)) + field


def test_a_unicode_path_of_another_name_is_not_taken() -> None:
    stale = unicode_path(b"old.jpg", "старое.jpg")
    version_2 = unicode_path(b"a.jpg", "path.jpg").replace(b"\x01", b"\x02")
    for extra in (stale, version_2):
        [entry] = read_zip(written_zip(Written(b"a.jpg", extra=extra)))
        assert entry.name == "a.jpg"


@pytest.mark.parametrize("extra", [b"", b"\1\0\4\0" + bytes(4)])
def test_the_largest_size_that_fits_needs_no_field(extra: bytes) -> None:
    record = bytearray(Written(b"film.mp4", extra=extra).central(7))
    record[20:28] = b"\xff" * 8
    end = written_zip(A)[-END_BYTES:]
    [head] = zip_records.directory(ByteStream([bytes(record) + end]))
    assert (head.n_packed, head.n_bytes, head.offset) == (0xFFFFFFFF, 0xFFFFFFFF, 7)


@pytest.mark.parametrize("extra", [b"\1", b"\1\2\3", b"\1\0\xff\xff" + bytes(8), bytes(65_000)])
def test_extra_fields_that_mean_nothing(extra: bytes) -> None:
    [entry] = read_zip(written_zip(replace(UNTOLD, extra=extra)))
    assert entry.content == b"untold"


@pytest.mark.parametrize("flags", [0, OPEN])
def test_folders_are_no_entries(flags: int) -> None:
    folders = [Written(name, b"", flags=flags) for name in (b"2019/", b"2019\\5\\", b".trash/")]
    deflated = Written(b"packed/", b"", DEFLATED, flags)
    whole = written_zip(A, *folders, deflated, replace(UNTOLD, name=b"2019/u.jpg"))
    assert [entry.name for entry in read_zip(whole)] == ["a.jpg", "2019/u.jpg"]


# What makes the rest unreadable, or is no archive for us.


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "does not begin as a ZIP archive"),
        (b"\xff\xd8\xff a picture " + zip_of({"a": b"x"}), "does not begin as a ZIP archive"),
        (b"PK\x07\x08" + zip_of({"a": b"x"}), "is split"),
        (written_zip(A)[:-END_BYTES] + b"PK\x05\x06\2" + bytes(17), "is split"),
        (written_zip(Written(flags=1 << 13)), "names are encrypted"),
        (written_zip(A)[:40], "is cut short"),
        (written_zip(A)[:-END_BYTES], "is cut short"),
        (written_zip(A)[:-1], "is cut short"),
        (written_zip(A, comment=b"abc")[:-1], "is cut short"),
        (written_zip(A, UNTOLD)[:-END_BYTES], "end record is missing"),
        (written_zip(A, B, listed=[0]), "has 2 entries where its directory has 1"),
        (written_zip(A, UNTOLD, listed=[1]), "has 1 entries where its directory has 0"),
        (written_zip(A) + written_zip(B), "Another archive follows"),
        (written_zip(A, UNTOLD) + written_zip(A, UNTOLD), "Another archive follows"),
        (written_zip(A) + bytes(65_536), "More than 65535 bytes follow"),
    ],
)
def test_archives_that_are_refused(body: bytes, reason: str) -> None:
    with pytest.raises(BadArchive, match=reason) as caught:
        read_zip(body)
    assert caught.value.detail.endswith(".")


@pytest.mark.parametrize(
    "body",
    [
        written_zip(A, comment=b"PK\x05\x06" + bytes(30)),
        written_zip(A, comment=b"c" * 65_535),
        written_zip(replace(A, flags=OPEN), comment=b"PK\x05\x06" + bytes(30)),
        written_zip(replace(A, flags=OPEN), comment=b"c" * 65_535, is_wide=True),
        written_zip(A) + bytes(65_535),
        written_zip(A, is_wide=True),
        written_zip(replace(A, flags=OPEN), comment=b"PK\x05\x06"),
        written_zip(replace(A, flags=OPEN, extra=b"PK\x06\x07" + bytes(16))),
        b"PK00" + A.local() + A.central(4) + written_zip(A)[-END_BYTES:],
    ],
)
def test_archives_that_are_taken(body: bytes) -> None:
    assert [entry.content for entry in read_zip(body)] == [b"first"]


def test_an_archive_may_be_empty() -> None:
    assert read_zip(written_zip()) == []
    assert read_zip(written_zip(is_wide=True)) == []


@pytest.mark.parametrize(
    ("n_entries", "n_told", "is_whole"),
    [(2, 2, True), (3, 3, True), (4, 3, True), (4, 0, True), (6, 2, True), (4, 1, False)],
)
@pytest.mark.parametrize("flags", [0, OPEN])
def test_an_end_record_tells_no_more_entries_than_it_has_room_for(
    monkeypatch: pytest.MonkeyPatch, n_entries: int, n_told: int, is_whole: bool, flags: int
) -> None:
    """Where there are too many, it tells the most that it can, or what is left of them."""
    monkeypatch.setattr(zip_records, "_MANY", 3)  # for 0xFFFF, of which an archive takes seconds
    whole = bytearray(written_zip(*[Written(flags=flags)] * n_entries))
    place = len(whole) - END_BYTES + 10
    whole[place : place + 2] = n_told.to_bytes(2, "little")
    if is_whole:
        assert len(read_zip(bytes(whole))) == n_entries
    else:
        with pytest.raises(BadArchive, match="tells another number"):
            read_zip(bytes(whole))


# Bombs.


def test_entries_that_overlap_are_refused() -> None:
    # The second head lies in the first entry's bytes, and both are in the directory.
    inner = Written(b"inner.jpg", b"inner")
    outer = Written(b"outer.jpg", inner.local(), flags=OPEN)
    place = len(outer.local()) - len(inner.local()) - 16
    for order in (
        [outer.central(0), inner.central(place)],
        [inner.central(place), outer.central(0)],
    ):
        directory = b"".join(order)
        size, offset = len(directory), len(outer.local())
        end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 2, 2, size, offset, 0)
        with pytest.raises(BadArchive, match="overlap"):
            read_zip(outer.local() + directory + end)


def test_an_entry_that_is_twice_in_the_directory_is_refused_though_there_were_room() -> None:
    named = replace(B, name=b"b" * 500 + b".jpg")
    for listed in ([0, 1, 1], [1, 1, 0]):
        with pytest.raises(BadArchive, match="overlap"):
            read_zip(written_zip(UNTOLD, named, listed=listed))


def many(entry: Written) -> bytes:
    return written_zip(*[entry] * 4)


ZEROS = bytes(RATIO_GRACE_BYTES // 3)


@pytest.mark.parametrize(
    "whole",
    [
        many(Written(content=ZEROS, method=DEFLATED)),
        many(Written(content=ZEROS, method=DEFLATED, flags=OPEN)),
        many(Written(content=ZEROS, method=BZIP2, crc=1)),
        many(Written(b"a.mp4", ZEROS, DEFLATED, OPEN)),
        many(Written(b"../a.jpg", ZEROS, DEFLATED, OPEN)),
        written_zip(UNTOLD, *[Written(content=ZEROS, method=DEFLATED)] * 4),
    ],
    ids=["too large", "open", "damaged", "passed over", "refused", "by the directory"],
)
def test_every_byte_that_comes_out_counts(whole: bytes) -> None:
    with pytest.raises(BadArchive, match=f"more than {MAX_RATIO} times"):
        read_zip(whole)


def test_what_is_passed_over_may_be_large() -> None:
    film = Written(b"film.mp4", random.Random(1).randbytes(100 * LIMIT))
    whole = written_zip(film, A, replace(film, flags=OPEN), replace(film, flags=OPEN | ENCRYPTED))
    assert told(read_zip(whole)) == [
        ("film.mp4", None),
        ("a.jpg", b"first"),
        ("film.mp4", None),
        ("film.mp4", None),
    ]
