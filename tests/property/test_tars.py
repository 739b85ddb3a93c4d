"""What holds for every tar archive, however it is packed, cut or damaged."""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from twinlens.api.reading.archives import MAX_RATIO, RATIO_GRACE_BYTES, is_noise, is_unsafe
from twinlens.api.reading.tars import MAX_HEADER_BYTES, tar_entries
from twinlens.api.reading.uploads import Entry
from twinlens.shared.errors import BadArchive, PayloadTooLarge, TwinlensError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT = 2000
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
}
names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=150
).filter(lambda name: not name.endswith("/"))  # that would be a folder
contents = st.binary(max_size=2 * LIMIT)
files = st.lists(st.tuples(names, contents), max_size=5, unique_by=lambda file: file[0])
packers = st.sampled_from(sorted(PACKERS))
sizes = st.integers(1, 3000)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def tar_of(files: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def special(kind: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("link.jpg")
        member.type, member.linkname = kind, "../../etc/passwd"
        archive.addfile(member)
    return buffer.getvalue()


def read(archive: bytes, size: int = 1000) -> list[Entry]:
    return list(tar_entries(pieces(archive, size), 10, LIMIT))


@given(files, packers, sizes)
def test_an_archive_gives_what_was_put_in(
    files: list[tuple[str, bytes]], packer: str, size: int
) -> None:
    entries = read(PACKERS[packer](tar_of(files)), size)
    wanted = [(name, content) for name, content in files if not is_noise(name)]
    assert [entry.name for entry in entries] == [name for name, _ in wanted]
    for entry, (name, content) in zip(entries, wanted, strict=True):
        is_good = 0 < len(content) <= LIMIT and not is_unsafe(name)
        assert (entry.error is None) == is_good
        assert entry.content == (content if is_good else b"")


@given(st.lists(contents, min_size=1, max_size=4), packers, sizes, st.data())
def test_no_cut_archive_is_taken(
    contents: list[bytes], packer: str, size: int, data: st.DataObject
) -> None:
    # A picture does not end with a kilobyte of zeros, which is how an archive ends.
    files = [(f"{n}.jpg", content + b"\xff\xd9") for n, content in enumerate(contents)]
    whole = tar_of(files)
    # tarfile fills the last record up with more empty blocks than an end needs.
    archive = PACKERS[packer](whole.rstrip(b"\0") + bytes(-len(whole.rstrip(b"\0")) % 512 + 1024))
    cut = archive[: data.draw(st.integers(0, len(archive) - 1))]
    with pytest.raises(BadArchive):
        read(cut, size)


@given(files, packers, sizes, st.data())
def test_a_damaged_archive_raises_nothing_else(
    files: list[tuple[str, bytes]], packer: str, size: int, data: st.DataObject
) -> None:
    damaged = bytearray(PACKERS[packer](tar_of(files)))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        entries = read(bytes(damaged), size)
    except TwinlensError:
        return
    assert all(len(entry.content) <= LIMIT for entry in entries)


@given(st.binary(max_size=3000), sizes)
def test_bytes_that_are_no_archive_are_refused(content: bytes, size: int) -> None:
    with pytest.raises(BadArchive):
        read(content, size)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_what_is_no_regular_file_is_a_refused_entry(kind: bytes) -> None:
    [entry] = read(special(kind))
    assert entry.error is not None
    assert entry.error.type.endswith(":bad-archive")


def test_folders_and_what_macos_adds_are_passed_over() -> None:
    files = [("a/._b.jpg", b"x"), (".DS_Store", b"x"), ("a/b.jpg", b"x")]
    assert [entry.name for entry in read(tar_of(files))] == ["a/b.jpg"]
    assert read(special(tarfile.DIRTYPE)) == []


def test_several_packed_parts_are_one_archive() -> None:
    archive = tar_of([("a.jpg", b"a" * 600), ("b.jpg", b"b" * 600)])
    for pack in (gzip.compress, zstandard.compress):
        packed = pack(archive[:1000]) + pack(archive[1000:])
        assert [entry.name for entry in read(packed)] == ["a.jpg", "b.jpg"]


def test_more_entries_than_allowed_are_refused() -> None:
    with pytest.raises(PayloadTooLarge):
        read(tar_of([(f"{n}", b"x") for n in range(11)]))


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused() -> None:
    n_bytes = 2 * RATIO_GRACE_BYTES
    head = tarfile.TarInfo("bomb.bmp")
    head.size = n_bytes

    def bomb() -> Iterator[bytes]:
        packer = zstandard.ZstdCompressor().compressobj()
        yield packer.compress(head.tobuf())
        for _ in range(n_bytes // 2**20):
            yield packer.compress(bytes(2**20))
        yield packer.flush()

    with pytest.raises(BadArchive, match=f"more than {MAX_RATIO} times"):
        list(tar_entries(bomb(), 10, n_bytes))


def test_a_name_that_would_fill_the_memory_is_refused() -> None:
    head = tarfile.TarInfo("././@LongLink")
    head.type, head.size = tarfile.GNUTYPE_LONGNAME, MAX_HEADER_BYTES + 1
    with pytest.raises(BadArchive, match="a header is too long"):
        read(head.tobuf() + bytes(2 * MAX_HEADER_BYTES))
