"""A stream gives all of its bytes, and the same pieces however its source is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.archives import pieces

from twinlens.api.reading import byte_streams
from twinlens.api.reading.byte_streams import ByteStream, CutShort

BLOCK = 16
content = st.binary(max_size=5 * BLOCK)
cuts = st.integers(1, 3 * BLOCK)
lengths = st.integers(0, 2 * BLOCK)


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byte_streams, "BLOCK_BYTES", BLOCK)
        yield


def used(stream: ByteStream, content: bytes, steps: list[tuple[str, int]]) -> list[bytes]:
    """Does what is asked for, and returns the pieces; looks that they are those of the content."""
    given: list[bytes] = []
    for step, n_bytes in steps:
        place = stream.offset
        if step == "peek":
            assert stream.peek(n_bytes) == content[place : place + n_bytes]
            assert stream.offset == place
            continue
        given.append(stream.next_piece(n_bytes or 1))
        assert given[-1] == content[place : stream.offset]
        if step == "give back":
            stream.give_back(len(given[-1]) // 2)
            assert stream.offset == place + len(given[-1]) - len(given[-1]) // 2
        elif step == "give back a piece":
            stream.give_back_piece()
            assert stream.offset == place
    place = stream.offset
    rest = list(stream.rest())
    assert b"".join(rest) == content[place:]
    return given + rest


steps = st.lists(
    st.tuples(st.sampled_from(["peek", "read", "give back", "give back a piece"]), lengths),
    max_size=8,
)


@given(content, cuts, steps)
def test_it_is_the_same_however_it_is_cut(
    content: bytes, cut: int, steps: list[tuple[str, int]]
) -> None:
    whole = used(ByteStream([content]), content, steps)
    assert used(ByteStream(pieces(content, cut)), content, steps) == whole
    assert max(map(len, whole), default=0) <= 3 * BLOCK


@given(content, cuts, lengths)
def test_so_many_bytes_are_taken_or_it_was_cut_short(
    content: bytes, cut: int, n_bytes: int
) -> None:
    stream = ByteStream(pieces(content, cut))
    if n_bytes > len(content):
        with pytest.raises(CutShort):
            stream.take(n_bytes)
    else:
        assert stream.take(n_bytes) == content[:n_bytes]
        assert stream.offset == n_bytes
