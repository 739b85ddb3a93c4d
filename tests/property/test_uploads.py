"""What holds for every upload, whatever its names, sizes and pieces."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from twinlens.api.reading.archives import (
    MAX_RATIO,
    RATIO_GRACE_BYTES,
    is_noise,
    is_unsafe,
    zip_entries,
)
from twinlens.api.reading.multipart import read_parts
from twinlens.api.reading.uploads import (
    Entry,
    form_entries,
    read_at_most,
)
from twinlens.shared.errors import BadArchive, BadRequest, PayloadTooLarge, TwinlensError

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 200
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=40)
contents = st.binary(max_size=2 * LIMIT)
sizes = st.integers(1, 300)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def zip_of(files: list[tuple[str, bytes]], compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in files:
            file.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


zips = st.builds(
    zip_of,
    st.lists(st.tuples(names, contents), max_size=6, unique_by=lambda file: file[0]),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]),
)


def form_of(files: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    head = '--b0undary\r\nContent-Disposition: form-data; name="files"; filename="{}"\r\n\r\n'
    parts = [head.format(name).encode() + content + b"\r\n" for name, content in files]
    return "multipart/form-data; boundary=b0undary", b"".join(parts) + b"--b0undary--\r\n"


@given(contents, sizes, st.integers(0, 2 * LIMIT))
def test_a_stream_is_kept_up_to_its_limit(content: bytes, size: int, limit: int) -> None:
    kept = read_at_most(pieces(content, size), limit)
    assert kept == (content if len(content) <= limit else None)


@given(st.lists(st.tuples(names, contents), max_size=6, unique_by=lambda file: file[0]), sizes)
def test_an_archive_gives_what_was_put_in(files: list[tuple[str, bytes]], size: int) -> None:
    archive = zip_of(files, zipfile.ZIP_DEFLATED)
    entries = list(zip_entries(pieces(archive, size), 10, LIMIT))
    wanted = [(name, content) for name, content in files if not is_noise(name)]
    assert [entry.name for entry in entries] == [name for name, _ in wanted]
    for entry, (name, content) in zip(entries, wanted, strict=True):
        is_good = 0 < len(content) <= LIMIT and not is_unsafe(name)
        assert (entry.error is None) == is_good
        assert entry.content == (content if is_good else b"")


def test_bytes_of_a_picture_are_no_end_of_an_archive() -> None:
    # Of its length, the directory behind the picture would do as the rest of an end record.
    archive = zip_of([("0", b"PK\x05\x06")], zipfile.ZIP_STORED)
    with pytest.raises(BadArchive):
        list(zip_entries([archive[:53]], 10, LIMIT))


@given(zips, sizes, st.data())
def test_no_cut_archive_is_taken(archive: bytes, size: int, data: st.DataObject) -> None:
    cut = archive[: data.draw(st.integers(0, len(archive) - 1))]
    with pytest.raises(BadArchive):
        list(zip_entries(pieces(cut, size), 10, LIMIT))


@given(zips, sizes, st.data())
def test_a_damaged_archive_raises_nothing_else(
    archive: bytes, size: int, data: st.DataObject
) -> None:
    damaged = bytearray(archive)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        entries = list(zip_entries(pieces(bytes(damaged), size), 10, LIMIT))
    except TwinlensError:
        return
    assert all(isinstance(entry, Entry) and len(entry.content) <= LIMIT for entry in entries)


@given(st.binary(max_size=500), sizes)
def test_bytes_that_are_no_archive_are_refused(content: bytes, size: int) -> None:
    assume(not content.startswith(b"PK"))
    with pytest.raises(BadArchive):
        list(zip_entries(pieces(content, size), 10, LIMIT))


@given(st.lists(contents, min_size=1, max_size=6), sizes)
def test_a_form_gives_what_was_put_in(files: list[bytes], size: int) -> None:
    named = [(f"picture {n}.jpg", content) for n, content in enumerate(files)]
    content_type, body = form_of(named)
    entries = list(form_entries(content_type, pieces(body, size), 10, LIMIT))
    assert [entry.name for entry in entries] == [name for name, _ in named]
    for entry, content in zip(entries, files, strict=True):
        assert (entry.error is None) == (0 < len(content) <= LIMIT)
        assert entry.error is not None or entry.content == content


@pytest.mark.parametrize(
    "content", [b"x", b"x\r", b"\r\n", b"x--b0undary", b"\r\n--b0undar", b"\n"]
)
def test_a_form_is_the_same_wherever_its_pieces_end(content: bytes) -> None:
    content_type, body = form_of([("a", content), ("b", b"second")])
    for cut in range(1, len(body)):
        entries = form_entries(content_type, [body[:cut], body[cut:]], 10, LIMIT)
        assert [entry.content for entry in entries] == [content, b"second"], cut


@given(st.lists(contents, min_size=1, max_size=3), sizes, st.data())
def test_no_cut_form_is_taken(files: list[bytes], size: int, data: st.DataObject) -> None:
    content_type, body = form_of([("a", content) for content in files])
    # The closing boundary ends with "--" and a line break; without the break it is whole.
    cut = body[: data.draw(st.integers(0, len(body) - 5))]
    with pytest.raises(BadRequest):
        list(form_entries(content_type, pieces(cut, size), 10, LIMIT))


@given(st.binary(max_size=500), sizes)
def test_any_body_is_a_form_or_refused(body: bytes, size: int) -> None:
    try:
        for part in read_parts("multipart/form-data; boundary=b", pieces(body, size), 10):
            list(part.chunks)
    except (BadRequest, PayloadTooLarge):
        pass


@given(st.binary(max_size=300), sizes)
def test_any_part_header_is_read_or_refused(head: bytes, size: int) -> None:
    body = b"--b\r\nContent-Disposition: form-data; " + head + b"\r\n\r\nx\r\n--b--\r\n"
    try:
        for part in read_parts("multipart/form-data; boundary=b", pieces(body, size), 10):
            assert isinstance(part.file_name, str)
    except (BadRequest, PayloadTooLarge):
        pass


@pytest.mark.parametrize("n_files", [11, 12])
def test_more_entries_than_allowed_are_refused(n_files: int) -> None:
    files = [(f"{n}", b"x") for n in range(n_files)]
    content_type, body = form_of(files)
    with pytest.raises(PayloadTooLarge):
        list(form_entries(content_type, [body], 10, LIMIT))
    with pytest.raises(PayloadTooLarge):
        list(zip_entries([zip_of(files, zipfile.ZIP_STORED)], 10, LIMIT))


def test_a_zip_that_unpacks_to_far_more_than_pictures_do_is_refused() -> None:
    # Each entry is below the limit of a picture, and there are many of them.
    n_bytes = RATIO_GRACE_BYTES // 32
    archive = zip_of([(f"{n}", bytes(n_bytes)) for n in range(64)], zipfile.ZIP_DEFLATED)
    with pytest.raises(BadArchive, match=f"more than {MAX_RATIO} times"):
        for _ in zip_entries(pieces(archive, 65_536), 100, n_bytes):
            pass
