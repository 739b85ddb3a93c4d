"""Which files are uploaded, and in which batches."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinlens.cli.errors import CommandFailed
from twinlens.cli.index import find_files, make_batches


def test_pictures_and_archives_are_told_apart_and_named_once(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", ".c.jpg", "notes.txt", "more.zip", "x.tar.GZ"):
        (tmp_path / name).touch()
    named = [tmp_path / name for name in ("a.png", "notes.txt", "more.zip", "x.tar.GZ")]
    files = find_files([tmp_path, *named])
    # What is named is sent, whatever it is called: the service says what it thinks of it.
    assert [path.name for path in files.pictures] == ["a.png", "b.JPG", "notes.txt"]
    assert [path.name for path in files.archives] == ["more.zip", "x.tar.GZ"]


def test_nothing_to_upload_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="there is no picture in"):
        find_files([tmp_path])


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 8), st.integers(1, 100))
def test_batches_keep_all_files_in_order_and_under_both_limits(
    sizes: list[int], max_files: int, max_bytes: int
) -> None:
    sized = [(Path(str(n)), size) for n, size in enumerate(sizes)]
    size_of = dict(sized)
    batches = list(make_batches(sized, max_files, max_bytes))
    assert [path for batch in batches for path in batch] == [path for path, _ in sized]
    for batch in batches:
        assert 0 < len(batch) <= max_files
        assert len(batch) == 1 or sum(size_of[path] for path in batch) <= max_bytes
