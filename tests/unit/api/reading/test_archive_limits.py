"""What an archive of any kind may hold at most, on both sides of each limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.archives import LIMIT, read_tar, read_zip, tar_of, told, zip_of

from twinlens.api.reading.archives import (
    MAX_RATIO,
    MORE_OTHERS,
    RATIO_GRACE_BYTES,
    Allowance,
    entry_by_name,
    leads_out,
)
from twinlens.api.reading.tar_heads import MAX_HEADER_BYTES
from twinlens.api.reading.tars import MAX_ZSTD_WINDOW_BYTES
from twinlens.api.reading.uploads import Entry
from twinlens.shared.errors import BadArchive, PayloadTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable

both = pytest.mark.parametrize(
    ("pack", "read"), [(tar_of, read_tar), (zip_of, read_zip)], ids=["tar", "zip"]
)
PASSED_OVER = Entry("a.json", is_passed_over=True)


@both
def test_as_many_pictures_as_allowed_are_taken_and_no_more(
    pack: Callable[..., bytes], read: Callable[..., list[Entry]]
) -> None:
    files = {f"{n}.jpg": b"x" for n in range(3)} | {f"{n}.json": b"x" for n in range(9)}
    assert len(read(pack(files), max_items=3)) == 12
    with pytest.raises(PayloadTooLarge, match="more than 2 pictures"):
        read(pack(files), max_items=2)


def test_as_many_other_files_and_folders_as_allowed_are_passed_over_and_no_more() -> None:
    n_most = 3 + MORE_OTHERS
    others = [PASSED_OVER, None] * n_most
    assert len(list(Allowance(3).admit(others[:n_most]))) == (n_most + 1) // 2
    with pytest.raises(PayloadTooLarge, match=f"more than {n_most} folders and files"):
        list(Allowance(3).admit(others[: n_most + 1]))


@both
def test_a_picture_may_have_as_many_bytes_as_allowed_and_no_more(
    pack: Callable[..., bytes], read: Callable[..., list[Entry]]
) -> None:
    files = {"whole": b"x" * LIMIT, "over": b"x" * (LIMIT + 1), "huge": bytes(99 * LIMIT)}
    assert told(read(pack(files | {"after": b"after"}))) == [
        ("whole", b"x" * LIMIT),
        ("over", "payload-too-large"),
        ("huge", "payload-too-large"),
        ("after", b"after"),
    ]


def unpack(n_packed: int, n_unpacked: int) -> None:
    allowance = Allowance(1)
    list(allowance.incoming([bytes(n_packed)]))
    # Of two entries, say.
    list(allowance.outgoing([bytes(n_unpacked - 1)]))
    list(allowance.outgoing([b"x"]))


@pytest.mark.parametrize("n_packed", [0, 10])
def test_an_archive_may_unpack_to_so_many_times_its_size_beside_the_grace(n_packed: int) -> None:
    n_most = MAX_RATIO * n_packed + RATIO_GRACE_BYTES
    unpack(n_packed, n_most)
    with pytest.raises(BadArchive, match=f"more than {MAX_RATIO} times"):
        unpack(n_packed, n_most + 1)


def test_the_limits_leave_pictures_alone_and_memory_free() -> None:
    assert 100 <= MAX_RATIO <= 1000
    assert RATIO_GRACE_BYTES <= 2**27
    assert 1000 <= MORE_OTHERS <= 100_000
    # What `zstd --long` writes, and what a process can spare.
    assert 2**27 <= MAX_ZSTD_WINDOW_BYTES <= 2**28
    assert 2**16 <= MAX_HEADER_BYTES <= 2**22


# Names.


@pytest.mark.parametrize("name", ["../a", "a/../b", "a/..", "..", "a\\..\\b", "..\\a", "../a.json"])
def test_a_name_that_leads_out_is_refused(name: str) -> None:
    assert leads_out(name)
    entry = entry_by_name(name)
    assert entry is not None
    assert entry.error is not None
    assert not entry.is_passed_over


@pytest.mark.parametrize("name", ["a", "a/b", "a..b", "...", "a/...", "/a", "C:a", "c:\\a", "A: b"])
def test_other_names_lead_nowhere(name: str) -> None:
    assert entry_by_name(name) is None


@pytest.mark.parametrize(
    ("name", "is_empty", "is_passed_over"),
    [
        ("a/b.jpg.json", False, True),
        ("film.MP4", False, True),
        ("__MACOSX/._b.jpg", False, True),
        # An empty file is told as such.
        ("film.MP4", True, False),
        (".nomedia", True, True),
        # What is hidden in a name may be its end.
        ("bad\x1b[2J.txt", False, False),
        ("gpj.\u202etxt", False, False),
        ("Icon\r", False, True),
    ],
)
def test_what_is_passed_over(name: str, is_empty: bool, is_passed_over: bool) -> None:
    entry = entry_by_name(name, is_empty=is_empty)
    assert entry == (Entry(name, is_passed_over=True) if is_passed_over else None)
