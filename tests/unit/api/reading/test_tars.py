"""Tar archives as others write them, also badly: what is taken, and why the rest is not."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import zstandard
from support.archives import LIMIT, read_tar, tar_of, told, with_checksum

from twinlens.api.reading.archives import MAX_RATIO, RATIO_GRACE_BYTES
from twinlens.api.reading.tar_heads import MAX_HEADER_BYTES, MAX_HEADERS, MAX_PATH_CHARS
from twinlens.api.reading.tars import MAX_LINKED, tar_entries
from twinlens.shared.blobs import image_id_of
from twinlens.shared.errors import BadArchive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BAD = "bad-archive"
BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)


def head(
    name: str = "x.jpg", kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = ""
) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, size, link
    return member.tobuf(tarfile.GNU_FORMAT)


def member(
    content: bytes, name: str = "x.jpg", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> bytes:
    return head(name, kind, len(content), link) + content + bytes(-len(content) % BLOCK)


def attributes(kind: bytes = tarfile.XHDTYPE, **given: str) -> bytes:
    """Returns a header of attributes; `__` stands for a dot."""
    text = b""
    for key, value in given.items():
        record = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(record)
        while len(str(length)) + len(record) != length:
            length = len(str(length)) + len(record)
        text += str(length).encode() + record
    return member(text, kind=kind)


# How they are packed.


def with_window(window_log: int) -> bytes:
    """Returns a tar archive, packed in a frame that asks for so large a window."""
    of_frame = zstandard.ZstdCompressionParameters(window_log=window_log)
    packer = zstandard.ZstdCompressor(compression_params=of_frame).compressobj()
    return packer.compress(tar_of({"a": b"x"})) + packer.flush()


def test_a_frame_with_the_window_of_zstd_long_is_taken() -> None:
    [entry] = read_tar(with_window(27))
    assert entry.content == b"x"


@pytest.mark.parametrize("window_log", [28, 31])
def test_a_frame_that_asks_for_more_memory_is_refused(window_log: int) -> None:
    with pytest.raises(BadArchive, match="cannot be read"):
        read_tar(with_window(window_log))


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
}


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_several_archives_in_one_file_are_read_on(pack: Callable[[bytes], bytes]) -> None:
    parts = [tar_of({"one.jpg": b"1", "two.jpg": b"2"}), tar_of({}), tar_of({"three.jpg": b"3"})]
    names = ["one.jpg", "two.jpg", "three.jpg"]
    assert [entry.name for entry in read_tar(pack(b"".join(parts)))] == names
    assert [entry.name for entry in read_tar(b"".join(map(pack, parts)))] == names


# Where they end.


@pytest.mark.parametrize("n_bytes", [0, 1, 511, 512, 1023])
def test_an_archive_without_its_two_empty_blocks_is_cut_short(n_bytes: int) -> None:
    for archive in (member(b"x"), tar_of({"a": b"1"}) + member(b"x")):
        with pytest.raises(BadArchive, match="cut short"):
            read_tar(archive + bytes(n_bytes))
        assert read_tar(archive + END)[-1].content == b"x"


@pytest.mark.parametrize("behind", [b"\0", b"x", b"x" * BLOCK, b"\0" * BLOCK + b"x" * BLOCK])
def test_nothing_else_may_be_behind_an_archive(behind: bytes) -> None:
    with pytest.raises(BadArchive):
        read_tar(tar_of({"a": b"x"}) + behind)


# Long names, and attributes.


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_long_name_is_taken_up_to_its_limit(kind: bytes) -> None:
    assert len(read_tar(member(b"n" * MAX_HEADER_BYTES, kind=kind) + tar_of({"a": b"x"}))) == 1
    with pytest.raises(BadArchive, match="a header is too long"):
        read_tar(head(kind=kind, size=MAX_HEADER_BYTES + 1))


def test_more_headers_than_a_member_has_are_refused() -> None:
    names = member(b"long.jpg\0", kind=tarfile.GNUTYPE_LONGNAME)
    assert len(read_tar(MAX_HEADERS * names + tar_of({"a": b"x"}))) == 1
    for chain in ((MAX_HEADERS + 1) * names, 5000 * names, 5000 * attributes(path="a")):
        with pytest.raises(BadArchive, match="too many headers"):
            read_tar(chain + tar_of({"a": b"x"}))


def test_of_a_name_that_no_system_has_the_end_is_kept() -> None:
    name = "d/" * 10_000 + "a.jpg"
    archive = attributes(path=name) + member(b"picture")
    archive += attributes(linkpath=name) + head("b.jpg", tarfile.LNKTYPE)
    named, linked = read_tar(archive + END)
    assert named.name == name[-MAX_PATH_CHARS:]
    assert linked.earlier == (image_id_of(b"picture"), 7)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_are_those_of_each_format(form: int) -> None:
    names = ["é" * 200 + ".jpg", "d/" * 70 + "a.jpg", "short.jpg"]
    assert [entry.name for entry in read_tar(tar_of(dict.fromkeys(names, b"x"), form))] == names


def test_attributes_of_all_members_are_those_from_there_on() -> None:
    archive = member(b"1", "one.jpg") + attributes(tarfile.XGLTYPE, path="two.jpg", mtime="1")
    archive += member(b"2") + attributes(path="three.jpg") + member(b"3") + END
    assert [entry.name for entry in read_tar(archive)] == ["one.jpg", "two.jpg", "three.jpg"]


def test_a_size_may_be_an_attribute() -> None:
    content = b"7 bytes"
    archive = attributes(size="7") + head() + content + bytes(BLOCK - 7) + tar_of({"a": b"x"})
    assert told(read_tar(archive)) == [("x.jpg", content), ("a", b"x")]


@pytest.mark.parametrize(
    "text", [b"x", b"9 path=a", b"99 path=a\n", b"1 path=a\n", b"3 \n", b"10 path=ab", b"\xff"]
)
def test_attributes_that_cannot_be_read(text: bytes) -> None:
    with pytest.raises(BadArchive, match="an attribute cannot be read"):
        read_tar(member(text, kind=tarfile.XHDTYPE) + tar_of({"a": b"x"}))


@pytest.mark.parametrize("size", ["-1", "x", "1_0", "", "9" * 5000])
def test_a_size_that_is_no_number(size: str) -> None:
    with pytest.raises(BadArchive, match="a size is no number"):
        read_tar(attributes(size=size) + member(b"x") + END)


def test_a_negative_size_is_refused() -> None:
    block = bytearray(head())
    block[124:136] = b"\xff" * 12
    with pytest.raises(BadArchive, match="a size is negative"):
        read_tar(with_checksum(block) + END)


def test_a_name_that_is_not_utf8_is_kept() -> None:
    latin = "n\udce9.jpg"
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(
            fileobj=buffer, mode="w", format=form, encoding="utf-8", errors="surrogateescape"
        ) as archive:
            for name in ("a.jpg", latin, "b.jpg"):
                archive.addfile(tarfile.TarInfo(name))
        assert [entry.name for entry in read_tar(buffer.getvalue())] == ["a.jpg", latin, "b.jpg"]


# Links, and what is no file.


def test_a_hard_link_is_the_picture_that_it_links_to() -> None:
    archive = tar_of({"d/a.jpg": b"picture", "huge.jpg": bytes(LIMIT + 1)})
    for name, link in [
        ("b.jpg", "d/a.jpg"),
        ("c.jpg", "b.jpg"),
        ("d.jpg", "none.jpg"),
        ("e.jpg", "huge.jpg"),
        ("../f.jpg", "d/a.jpg"),
        ("g.json", "d/a.jpg"),
    ]:
        archive += head(name, tarfile.LNKTYPE, link=link)
    entries = read_tar(archive + END)
    earlier = (image_id_of(b"picture"), 7)
    assert [(entry.name, entry.earlier) for entry in entries[2:4]] == [
        ("b.jpg", earlier),
        ("c.jpg", earlier),
    ]
    assert [entry.error is not None for entry in entries[4:7]] == [True] * 3
    assert entries[7].is_passed_over


def test_a_long_hard_link() -> None:
    name = "d/" * 100 + "a.jpg"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO(tar_of({name: b"picture"}, form))
        with tarfile.open(fileobj=buffer, mode="a", format=form) as archive:
            link = tarfile.TarInfo("b.jpg")
            link.type, link.linkname = tarfile.LNKTYPE, name
            archive.addfile(link)
        [_, linked] = read_tar(buffer.getvalue())
        assert linked.earlier == (image_id_of(b"picture"), 7)


def test_hard_links_name_one_of_the_last_pictures() -> None:
    """Of more, the memory would grow with the archive."""

    def body() -> Iterator[bytes]:
        for n in range(MAX_LINKED + 1):
            yield member(b"%d" % n, f"{n}.jpg")
        for n in (0, 1):
            yield head("link.jpg", tarfile.LNKTYPE, link=f"{n}.jpg")
        yield END

    *_, first, second = tar_entries(body(), MAX_LINKED + 9, LIMIT)
    assert first.error is not None
    assert f"the last {MAX_LINKED} pictures" in first.error.detail
    assert second.earlier == (image_id_of(b"1"), 1)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_what_is_no_regular_file_is_refused(kind: bytes) -> None:
    # With a size, which some writers tell, though there are no bytes.
    archive = head("link.jpg", kind, 1000, "../../etc/passwd") + tar_of({"a.jpg": b"x"})
    assert told(read_tar(archive)) == [("link.jpg", BAD), ("a.jpg", b"x")]


def test_folders_labels_and_lists_are_no_entries() -> None:
    archive = head("d", tarfile.DIRTYPE) + head("label", b"V") + member(b"Ya.jpg\0\0", "d", b"D")
    archive += head("e/") + tar_of({"d/a.jpg": b"x"})
    assert told(read_tar(archive)) == [("d/a.jpg", b"x")]


def test_a_part_of_a_file_of_another_volume_is_refused() -> None:
    archive = member(b"the rest of it", "a.jpg", b"M") + tar_of({"b.jpg": b"x"})
    assert told(read_tar(archive)) == [("a.jpg", BAD), ("b.jpg", b"x")]


@pytest.mark.parametrize("kind", [tarfile.AREGTYPE, tarfile.CONTTYPE, b"Q"])
def test_other_kinds_are_files(kind: bytes) -> None:
    assert told(read_tar(member(b"picture", "a.jpg", kind) + END)) == [("a.jpg", b"picture")]


def old_sparse(n_more: int) -> bytes:
    """Returns a sparse member in GNU's old format, whose map has so many more blocks."""
    block = bytearray(head("s.jpg", tarfile.GNUTYPE_SPARSE, 600))
    block[386:410] = b"%011o\0%011o\0" % (0, 600)
    block[482] = n_more > 0
    block[483:495] = b"%011o\0" % 10**9
    more = b"".join(bytes(504) + bytes([n < n_more - 1]) + bytes(7) for n in range(n_more))
    return with_checksum(block) + more + b"x" * 600 + bytes(424)


SPARSE = {
    "old": old_sparse(0),
    "old, long": old_sparse(3),
    "0.0": attributes(GNU__sparse__size="1000000000", GNU__sparse__numblocks="1")
    + member(b"x" * 600),
    "0.1": attributes(GNU__sparse__map="0,600", GNU__sparse__name="s.jpg") + member(b"x" * 600),
    "1.0": attributes(GNU__sparse__major="1", GNU__sparse__name="s.jpg")
    + member(b"99999999999999999999\n" + b"9\n" * 200),
}


@pytest.mark.parametrize("archive", SPARSE.values(), ids=SPARSE)
def test_sparse_members_are_refused(archive: bytes) -> None:
    [sparse, after] = read_tar(archive + tar_of({"a.jpg": b"x"}))
    assert sparse.error is not None
    assert "sparse" in sparse.error.detail
    assert after.content == b"x"


# Memory, and bombs.


def test_memory_does_not_grow_with_the_entries_of_an_archive() -> None:
    folders = [head("folder", tarfile.DIRTYPE) * 100] * 50
    read_tar(tar_of({"a": b"what is loaded once is not counted"}))
    tracemalloc.start()
    try:
        [entry] = tar_entries([*folders, tar_of({"a": b"x"})], 3, LIMIT)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert entry.content == b"x"
    # 0.4 MB; if each head were kept, it would be 2 MB more.
    assert peak_bytes < 1_200_000


@pytest.mark.parametrize(
    "block",
    [
        head("large.jpg", size=2**40),
        head("film.mp4", size=2**40),
        head("large.jpg", tarfile.GNUTYPE_SPARSE, 2**40),
        bytes(BLOCK),
    ],
    ids=["too large", "passed over", "sparse", "empty blocks"],
)
def test_every_byte_that_comes_out_counts(block: bytes) -> None:
    packed = zstandard.compress(block + bytes(2 * RATIO_GRACE_BYTES), level=1)
    with pytest.raises(BadArchive, match=f"more than {MAX_RATIO} times"):
        read_tar(packed)


def test_headers_count() -> None:
    name = member(bytes(MAX_HEADER_BYTES), kind=tarfile.GNUTYPE_LONGNAME) + member(b"x")
    packed = zstandard.compress(name * (2 * RATIO_GRACE_BYTES // MAX_HEADER_BYTES), level=1)
    with pytest.raises(BadArchive, match=f"more than {MAX_RATIO} times"):
        read_tar(packed, max_items=1000)
