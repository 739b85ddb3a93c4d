"""A multipart body as a stream of parts, read as it arrives.

Werkzeug's form parser keeps every part until the last has come: 10,000 files are 10,000 open
temporary files, each with up to 500 kB in memory. docs/decisions/0003-multipart.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from twinlens.shared.errors import BadRequest, PayloadTooLarge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# The head of a part, a piece of its content, or the end of the part.
Event: TypeAlias = MultipartSegment | bytes | bytearray | None


@dataclass
class Part:
    """One part of a form. Chunks not read before the next part is asked for are skipped."""

    name: str
    file_name: str
    chunks: Iterator[bytes]


def read_parts(content_type: str, body: Iterable[bytes], max_parts: int) -> Iterator[Part]:
    """Yields the parts of a multipart body in order, holding one piece of one part at a time.

    Args:
        content_type: The request's header, which names the boundary.
        body: Pieces of the body.
        max_parts: A body with more parts is refused.

    Raises:
        BadRequest: The body is cut short or is not a multipart body.
        PayloadTooLarge: It has too many parts, or a part's headers are too long.
    """
    events = _events(content_type, body, max_parts)
    for event in events:
        assert isinstance(event, MultipartSegment)
        part = Part(_text(event.name), _text(event.filename), _content(events))
        yield part
        for _ in part.chunks:
            pass


def _events(content_type: str, body: Iterable[bytes], max_parts: int) -> Iterator[Event]:
    """Yields each part's head, its bytes in pieces, and None as its end."""
    boundary = parse_options_header(content_type)[1].get("boundary", "")
    try:
        # As bytes, so to speak: it would refuse a form for one name that is not UTF-8.
        parser = PushMultipartParser(
            boundary, max_segment_count=max_parts, header_charset="latin-1"
        )
        for piece in body:
            yield from parser.parse(piece)
        parser.close()
    except ParserLimitReached as error:
        raise PayloadTooLarge(f"The form is refused: {error}.") from None
    except MultipartError as error:
        raise BadRequest(f"The multipart body cannot be read: {error}.") from None


def _content(events: Iterator[Event]) -> Iterator[bytes]:
    for event in events:
        if event is None:  # the end of the part
            return
        assert isinstance(event, bytes | bytearray)
        yield bytes(event)


def _text(raw: str | None) -> str:
    """Returns a name as UTF-8; what is none of it is marked."""
    return (raw or "").encode("latin-1").decode(errors="replace")
