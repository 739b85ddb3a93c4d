"""What holds for every tar archive, however it is packed, cut or damaged."""

from __future__ import annotations

import gzip
import io
import tarfile
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from support.archives import LIMIT, read_tar, tar_of, told, with_checksum

from twinlens.api.reading.archives import entry_by_name
from twinlens.shared.errors import BadArchive, TwinlensError

if TYPE_CHECKING:
    from collections.abc import Callable

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
}
# Surrogates are what the bytes of a name become that are no UTF-8.
names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"]) | st.sampled_from("./\udce9"),
    min_size=1,
    max_size=150,
).filter(lambda name: not name.endswith("/"))  # that would be a folder
contents = st.binary(max_size=2 * LIMIT)
kinds = st.sampled_from([tarfile.REGTYPE] * 4 + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
files = st.lists(st.tuples(names, contents, kinds), max_size=5, unique_by=lambda file: file[0])
forms = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
packers = st.sampled_from(sorted(PACKERS))
sizes = st.integers(1, 3000)


def tar_by_python(files: list[tuple[str, bytes, bytes]], form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=form, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        for name, content, kind in files:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, files[0][0]
            if kind == tarfile.REGTYPE:
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def wanted(
    archive: tarfile.TarFile, member: tarfile.TarInfo, earlier: dict[str, bytes]
) -> bytes | str | None:
    """Returns what is to be told of a member, of which some pictures were before."""
    content = archive.extractfile(member) if member.isreg() else None
    known = entry_by_name(member.name, is_empty=member.isreg() and not member.size)
    if known is not None:
        return told([known])[0][1]
    if content is None:
        return b"" if member.islnk() and member.linkname in earlier else "bad-archive"
    if not 0 < member.size <= LIMIT:
        return "payload-too-large" if member.size else "empty-picture"
    earlier[member.name] = content.read()
    return earlier[member.name]


@given(files, forms, packers, sizes)
def test_what_python_writes_is_read_as_python_reads_it(
    files: list[tuple[str, bytes, bytes]], form: int, packer: str, size: int
) -> None:
    whole = tar_by_python(files, form)
    earlier: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(whole), encoding="utf-8") as archive:
        expected = [
            (member.name, wanted(archive, member, earlier))
            for member in archive
            if not member.isdir()
        ]
    assert told(read_tar(PACKERS[packer](whole), size)) == expected


@given(st.lists(contents, min_size=1, max_size=4), packers, sizes, st.data())
def test_no_cut_archive_is_taken(
    contents: list[bytes], packer: str, size: int, data: st.DataObject
) -> None:
    # A picture does not end with a kilobyte of zeros, which is how an archive ends.
    whole = tar_of({f"{n}.jpg": content + b"\xff\xd9" for n, content in enumerate(contents)})
    # tarfile fills the last record up with more empty blocks than an end needs.
    archive = PACKERS[packer](whole.rstrip(b"\0") + bytes(-len(whole.rstrip(b"\0")) % 512 + 1024))
    cut = archive[: data.draw(st.integers(0, len(archive) - 1))]
    with pytest.raises(BadArchive):
        read_tar(cut, size)


@given(files, forms, packers, sizes, st.data())
def test_a_damaged_archive_raises_nothing_else(
    files: list[tuple[str, bytes, bytes]], form: int, packer: str, size: int, data: st.DataObject
) -> None:
    damaged = bytearray(PACKERS[packer](tar_by_python(files, form)))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        entries = read_tar(bytes(damaged), size)
    except TwinlensError:
        return
    assert all(len(entry.content) <= LIMIT for entry in entries)


@given(st.binary(max_size=3000), sizes)
def test_bytes_that_are_no_archive_are_refused(content: bytes, size: int) -> None:
    with pytest.raises(BadArchive):
        read_tar(content, size)


@given(st.lists(st.binary(min_size=100, max_size=600), max_size=4), sizes)
def test_any_headers_are_read_or_refused(texts: list[bytes], size: int) -> None:
    """Blocks that are heads by their checksum, whatever is in them."""
    archive = b""
    for text in texts:
        block = bytearray((text + bytes(512))[:512])
        block[124:136] = b"%011o\0" % len(text)
        block[156] = b"0LKxgS1D"[text[0] % 8]
        archive += with_checksum(block) + text + bytes(-len(text) % 512)
    with suppress(BadArchive):
        read_tar(archive + bytes(1024), size)
