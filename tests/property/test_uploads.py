"""What holds for every upload, whatever its names, sizes and pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinlens.api.reading.multipart import read_parts
from twinlens.api.reading.uploads import form_entries, read_at_most
from twinlens.shared.errors import BadRequest, PayloadTooLarge

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 200
contents = st.binary(max_size=2 * LIMIT)
sizes = st.integers(1, 300)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def form_of(files: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    head = '--b0undary\r\nContent-Disposition: form-data; name="files"; filename="{}"\r\n\r\n'
    parts = [head.format(name).encode() + content + b"\r\n" for name, content in files]
    return "multipart/form-data; boundary=b0undary", b"".join(parts) + b"--b0undary--\r\n"


@given(contents, sizes, st.integers(0, 2 * LIMIT))
def test_a_stream_is_kept_up_to_its_limit(content: bytes, size: int, limit: int) -> None:
    kept = read_at_most(pieces(content, size), limit)
    assert kept == (content if len(content) <= limit else None)


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
