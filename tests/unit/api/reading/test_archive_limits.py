"""What an archive may hold at most, on both sides of each limit, and what it may cost in memory."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
import zipfile
from typing import TYPE_CHECKING

import pytest
import zstandard

from twinlens.api.reading import archives
from twinlens.api.reading.archives import (
    MAX_OVERSIZE,
    MAX_RATIO,
    RATIO_GRACE_BYTES,
    check_ratio,
    decode_name,
    is_noise,
    is_unsafe,
    read_bounded,
    zip_entries,
)
from twinlens.api.reading.tars import MAX_HEADER_BYTES, MAX_ZSTD_WINDOW_BYTES, tar_entries
from twinlens.shared.errors import BadArchive, PayloadTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable

    from twinlens.api.reading.uploads import Entry

LIMIT = 1000
END = bytes(2 * tarfile.BLOCKSIZE)


def tar_of(contents: list[bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number, content in enumerate(contents):
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(contents: list[bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, content in enumerate(contents):
            archive.writestr(f"{number}.jpg", content)
    return buffer.getvalue()


def read_tar(archive: bytes, max_items: int = 3) -> list[Entry]:
    return list(tar_entries([archive], max_items, LIMIT))


def read_zip(archive: bytes, max_items: int = 3) -> list[Entry]:
    return list(zip_entries([archive], max_items, LIMIT))


both = pytest.mark.parametrize(
    ("pack", "read"), [(tar_of, read_tar), (zip_of, read_zip)], ids=["tar", "zip"]
)


@both
def test_as_many_pictures_as_allowed_are_taken_and_no_more(
    pack: Callable[[list[bytes]], bytes], read: Callable[[bytes], list[Entry]]
) -> None:
    assert len(read(pack([b"x"] * 3))) == 3
    with pytest.raises(PayloadTooLarge, match="more than 3 pictures"):
        read(pack([b"x"] * 4))


@both
def test_a_picture_may_have_as_many_bytes_as_allowed_and_no_more(
    pack: Callable[[list[bytes]], bytes], read: Callable[[bytes], list[Entry]]
) -> None:
    whole, over, after = read(pack([b"x" * LIMIT, b"x" * (LIMIT + 1), b"after"]))
    assert (whole.content, whole.error) == (b"x" * LIMIT, None)
    assert over.error is not None
    assert (over.content, over.error.status) == (b"", 413)
    assert (after.content, after.error) == (b"after", None)


@both
def test_an_entry_far_past_the_limit_ends_the_archive(
    pack: Callable[[list[bytes]], bytes], read: Callable[[bytes], list[Entry]]
) -> None:
    [entry] = read(pack([bytes(MAX_OVERSIZE * LIMIT)]))
    assert entry.error is not None
    with pytest.raises(
        BadArchive, match=f"more than {MAX_OVERSIZE} times the limit of {LIMIT} bytes"
    ):
        read(pack([bytes(MAX_OVERSIZE * LIMIT + 1)]))


def test_of_an_entry_that_is_too_large_nothing_is_held() -> None:
    chunk = bytes(65_536)
    n_chunks = MAX_OVERSIZE * 16
    tracemalloc.start()
    try:
        assert read_bounded((bytes(65_536) for _ in range(n_chunks)), 16 * len(chunk)) is None
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 64 * len(chunk)


def test_an_archive_may_unpack_to_so_many_times_its_size_beside_the_grace() -> None:
    check_ratio(RATIO_GRACE_BYTES, 0)
    check_ratio(MAX_RATIO * 10 + RATIO_GRACE_BYTES, 10)
    for n_unpacked, n_packed in (
        (RATIO_GRACE_BYTES + 1, 0),
        (MAX_RATIO * 10 + RATIO_GRACE_BYTES + 1, 10),
    ):
        with pytest.raises(BadArchive, match=f"more than {MAX_RATIO} times"):
            check_ratio(n_unpacked, n_packed)


def test_the_limits_leave_pictures_alone_and_memory_free() -> None:
    assert 100 <= MAX_RATIO <= 1000
    assert RATIO_GRACE_BYTES <= 2**27
    assert 2 <= MAX_OVERSIZE <= 64
    # What `zstd --long` writes, and what a process can spare.
    assert 2**27 <= MAX_ZSTD_WINDOW_BYTES <= 2**28
    assert 2**16 <= MAX_HEADER_BYTES <= 2**22


# Zstandard.


def with_window(window_log: int) -> bytes:
    """Returns a tar archive, packed in a frame that asks for so large a window."""
    of_frame = zstandard.ZstdCompressionParameters(window_log=window_log)
    packer = zstandard.ZstdCompressor(compression_params=of_frame).compressobj()
    return packer.compress(tar_of([b"x"])) + packer.flush()


def test_a_frame_with_the_window_of_zstd_long_is_taken() -> None:
    [entry] = read_tar(with_window(27))
    assert entry.content == b"x"


@pytest.mark.parametrize("window_log", [28, 31])
def test_a_frame_that_asks_for_more_memory_is_refused(window_log: int) -> None:
    with pytest.raises(BadArchive, match="cannot be read"):
        read_tar(with_window(window_log))


# Tar.


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_long_name_is_taken_up_to_its_limit(kind: bytes) -> None:
    def named(n_bytes: int) -> bytes:
        head = tarfile.TarInfo("././@LongLink")
        head.type, head.size = kind, n_bytes
        return head.tobuf() + bytes(n_bytes + -n_bytes % tarfile.BLOCKSIZE) + tar_of([b"x"])

    assert len(read_tar(named(MAX_HEADER_BYTES))) == 1
    with pytest.raises(BadArchive, match="a header is too long"):
        read_tar(named(MAX_HEADER_BYTES + 1))


def test_memory_does_not_grow_with_the_entries_of_an_archive() -> None:
    """5,000 folders, which count as no picture: tarfile would keep the head of each."""
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    body = [folder.tobuf() * 100] * 50 + [tar_of([b"x"])]
    read_tar(tar_of([b"what is loaded once is not counted"]))
    tracemalloc.start()
    try:
        [entry] = tar_entries(body, 3, LIMIT)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert entry.content == b"x"
    # 0.2 MB; if each head were kept, it would be 6 MB.
    assert peak_bytes < 1_500_000


@pytest.mark.parametrize("n_bytes", [0, 1, 511, 512, 1023])
def test_an_archive_without_its_two_empty_blocks_is_cut_short(n_bytes: int) -> None:
    archive = tar_of([b"x"]).rstrip(b"\0")
    archive += bytes(-len(archive) % tarfile.BLOCKSIZE)
    with pytest.raises(BadArchive):
        read_tar(archive + bytes(n_bytes))
    assert len(read_tar(archive + END)) == 1


def test_an_archive_of_broken_blocks_is_cut_short() -> None:
    with pytest.raises(BadArchive, match="cut short"):
        read_tar(tar_of([b"x"]) + b"\0")
    with pytest.raises(BadArchive, match="cut short"):
        read_tar(tar_of([b"x"]) + b"x" * tarfile.BLOCKSIZE)


# ZIP.


def test_an_archive_may_have_a_comment_of_any_length() -> None:
    buffer = io.BytesIO(zip_of([b"x"]))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"c" * 65_535
    whole = buffer.getvalue()
    assert len(read_zip(whole)) == 1
    pieces = (whole[n : n + 100] for n in range(0, len(whole), 100))
    assert len(list(zip_entries(pieces, 3, LIMIT))) == 1


def test_the_end_record_must_tell_as_many_entries_as_there_are() -> None:
    whole = bytearray(zip_of([b"x", b"y"]))
    place = whole.rindex(b"PK\x05\x06") + 10
    for n_told in (1, 3, 0xFFFF, 0):
        whole[place : place + 2] = n_told.to_bytes(2, "little")
        with pytest.raises(BadArchive, match="its end record is missing"):
            read_zip(bytes(whole))


@pytest.mark.parametrize(
    ("n_entries", "n_told", "is_whole"),
    [(2, 2, True), (3, 3, True), (4, 3, True), (4, 0, True), (6, 2, True), (4, 1, False)],
)
def test_an_end_record_tells_no_more_entries_than_it_has_room_for(
    monkeypatch: pytest.MonkeyPatch, n_entries: int, n_told: int, is_whole: bool
) -> None:
    """Where there are too many, it tells the most that it can, or what is left of them."""
    monkeypatch.setattr(archives, "_MANY", 3)  # for 0xFFFF, of which an archive takes seconds
    whole = bytearray(zip_of([b"x"] * n_entries))
    place = whole.rindex(b"PK\x05\x06") + 10
    whole[place : place + 2] = n_told.to_bytes(2, "little")
    if is_whole:
        assert len(read_zip(bytes(whole), max_items=9)) == n_entries
    else:
        with pytest.raises(BadArchive, match="its end record is missing"):
            read_zip(bytes(whole), max_items=9)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda whole: b"x" + whole, "The archive cannot be read: "),
        (lambda whole: whole[:40], "The archive cannot be read: "),
        (lambda whole: whole[:-22], "its end record is missing"),
    ],
)
def test_an_archive_that_cannot_be_read_says_why(
    damage: Callable[[bytes], bytes], reason: str
) -> None:
    with pytest.raises(BadArchive, match=reason) as caught:
        read_zip(damage(zip_of([b"x" * 100])))
    assert caught.value.detail.endswith(".")


# Names.


@pytest.mark.parametrize(
    "name", ["a/", "__MACOSX/a.jpg", "a/.DS_Store", ".DS_Store", "a/._b.jpg", "._b.jpg"]
)
def test_folders_and_what_macos_adds_are_noise(name: str) -> None:
    assert is_noise(name)


@pytest.mark.parametrize("name", ["a", "a/__MACOSX/b.jpg", "DS_Store", "a/b._c.jpg", "._a/b.jpg"])
def test_what_only_looks_like_noise_is_a_picture(name: str) -> None:
    assert not is_noise(name)


@pytest.mark.parametrize(
    "name", ["/a", "\\a", "C:a", "c:\\a", "../a", "a/../b", "a/..", "..", "a\\..\\b", "..\\a"]
)
def test_a_name_that_leads_out_is_unsafe(name: str) -> None:
    assert is_unsafe(name)


@pytest.mark.parametrize("name", ["a", "a/b", "a..b", "...", "a/...", "1:a", "ab:c", "a/C:b"])
def test_other_names_are_safe(name: str) -> None:
    assert not is_unsafe(name)


def test_a_name_that_is_no_utf8_is_of_code_page_437() -> None:
    assert decode_name("né.jpg".encode()) == "né.jpg"
    assert decode_name(b"x\x82.jpg") == "xé.jpg"
