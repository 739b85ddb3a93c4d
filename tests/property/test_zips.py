"""What holds for every ZIP archive, however it is written, cut or damaged."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from support.archives import (
    LIMIT,
    OPEN,
    UTF8,
    Unseekable,
    Written,
    read_zip,
    told,
    written_zip,
    zip_of,
)

from twinlens.api.reading.archives import entry_by_name, leads_out
from twinlens.api.reading.uploads import Entry
from twinlens.shared.errors import BadArchive, TwinlensError

if TYPE_CHECKING:
    from collections.abc import Sequence

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
BZIP2, LZMA = zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA

names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"]) | st.sampled_from("./a"),
    min_size=1,
    max_size=40,
) | st.sampled_from(["a/", "a.json", "b/film.mp4", ".DS_Store", "../a.jpg", "a/__MACOSX/b"])
# Records of archives may be in pictures.
contents = st.binary(max_size=2 * LIMIT) | st.builds(
    b"".join,
    st.lists(
        st.sampled_from(
            [b"PK\x03\x04", b"PK\x07\x08", b"PK\x01\x02", b"PK\x05\x06", bytes(12), bytes(26)]
        )
    ),
)
sizes = st.integers(1, 3000)


class File(NamedTuple):
    name: str
    content: bytes
    method: int
    is_wide: bool


files = st.lists(
    st.builds(
        File, names, contents, st.sampled_from([STORED, DEFLATED, BZIP2, LZMA]), st.booleans()
    ),
    max_size=6,
    unique_by=lambda file: file.name,
)
entries = st.lists(
    st.builds(
        Written,
        name=st.binary(max_size=9),
        content=contents,
        method=st.sampled_from([STORED, DEFLATED, BZIP2, 14]),
        flags=st.sampled_from([0, OPEN, UTF8, OPEN | UTF8]),
        is_signed=st.booleans(),
        is_wide=st.booleans(),
    ),
    max_size=5,
)
archives = st.builds(lambda entries: written_zip(*entries), entries)


def zip_by_python(files: Sequence[File], *, is_streamed: bool) -> bytes:
    connection, buffer = Unseekable(), io.BytesIO()
    with zipfile.ZipFile(connection if is_streamed else buffer, "w") as archive:
        for file in files:
            head = zipfile.ZipInfo(file.name)
            head.compress_type = file.method
            with archive.open(head, "w", force_zip64=file.is_wide) as entry:
                # A folder has no bytes, not even those of a head.
                entry.write(b"" if head.is_dir() else file.content)
    return bytes(connection.written) if is_streamed else buffer.getvalue()


def wanted(name: str, content: bytes, *, is_served: bool) -> bytes | str | None:
    """Returns what is to be told of an entry."""
    known = entry_by_name(name, is_empty=not content)
    if known is not None:
        return told([known])[0][1]
    if not is_served:
        return "bad-archive"
    if not content:
        return "empty-picture"
    return content if len(content) <= LIMIT else "payload-too-large"


@given(files, st.booleans(), sizes)
def test_what_python_writes_is_read_as_python_reads_it(
    files: list[File], is_streamed: bool, size: int
) -> None:
    whole = zip_by_python(files, is_streamed=is_streamed)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        expected = [
            (
                head.filename,
                wanted(head.filename, archive.read(head), is_served=head.compress_type != LZMA),
            )
            for head in archive.infolist()
            if not head.filename.endswith(("/", "\\"))
        ]
    assert told(read_zip(whole, size)) == expected


@given(entries, sizes)
def test_an_archive_gives_what_was_put_in(entries: list[Written], size: int) -> None:
    given_back = read_zip(written_zip(*entries), size)
    files = [entry for entry in entries if not entry.name.endswith((b"/", b"\\"))]
    assert len(given_back) == len(files)
    for (name, outcome), entry in zip(told(given_back), files, strict=True):
        assert outcome == wanted(name, entry.content, is_served=entry.method != 14)


@given(archives, sizes, st.data())
def test_no_cut_archive_is_taken(archive: bytes, size: int, data: st.DataObject) -> None:
    cut = archive[: data.draw(st.integers(0, len(archive) - 1))]
    with pytest.raises(BadArchive):
        read_zip(cut, size)


def outcome_of(archive: bytes, size: int) -> object:
    try:
        return told(read_zip(archive, size))
    except TwinlensError as error:
        return error.detail


@given(archives, sizes, st.data())
def test_a_damaged_archive_is_read_or_refused_alike_however_it_comes(
    archive: bytes, size: int, data: st.DataObject
) -> None:
    damaged = bytearray(archive)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    assert outcome_of(bytes(damaged), size) == outcome_of(bytes(damaged), 10**6)


@given(st.binary(max_size=500), sizes)
@example(b"PK00PK\x03\x04", 1)
@example(b"PK\x06\x06" + bytes(4) + b"\xff" * 8, 9)
@example(b"PK\x01\x02", 4)
def test_any_bytes_are_an_archive_or_refused(content: bytes, size: int) -> None:
    for start in (b"", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06"):
        try:
            entries = read_zip(start + content, size)
        except BadArchive:
            continue
        assert all(isinstance(entry, Entry) for entry in entries)


@given(st.binary(max_size=500), sizes)
def test_bytes_that_do_not_begin_as_an_archive_are_refused(content: bytes, size: int) -> None:
    assume(content and not content.startswith(b"PK"))
    with pytest.raises(BadArchive):
        read_zip(content + zip_of({"a": b"x"}), size)


@given(names)
def test_no_name_that_leads_out_is_taken(name: str) -> None:
    for entry in read_zip(zip_of({name: b"x"})):
        assert (entry.error is not None) == leads_out(name)
