"""Listings as streams of entries: one JSON object a line, each naming where a picture is.

Nothing is fetched here. The worker decides which roots and hosts are allowed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from twinlens.api.problems import fields_of
from twinlens.api.reading.uploads import (
    Entry,
    metadata_json,
    parse_metadata,
    refused_entry,
    without_mark,
)
from twinlens.shared.errors import FieldError, PayloadTooLarge, ValidationFailed, pointer
from twinlens.shared.names import MAX_NAME_CHARS, clean_name, clean_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from urllib.parse import SplitResult

    from twinlens.shared.messages import Metadata

MAX_LINE_BYTES = 64 * 1024
# A line of 64 KiB can hold ten thousand bad fields, and each would be stored with the item.
MAX_ERRORS = 8

_NOT_OF_URIS = re.compile(r"[\x00-\x20\x7f]")


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    uri: str
    name: str = ""
    metadata: dict[str, Any] | None = None


def listing_entries(body: Iterable[bytes], max_items: int) -> Iterator[Entry]:
    """Yields the pictures of an ndjson listing, in its order; blank lines are skipped.

    A bad line becomes a refused entry named `line N`, and the rest is still read.

    Raises:
        PayloadTooLarge: It has too many lines.
    """
    n_items = 0
    for number, line in enumerate(_lines(body), start=1):
        line = without_mark(line)  # noqa: PLW2901 (of listings that were joined, any may have one)
        if len(line) <= MAX_LINE_BYTES and not line.strip():
            continue
        n_items += 1
        if n_items > max_items:
            raise PayloadTooLarge(f"The listing has more than {max_items} pictures.")
        yield _entry_of(number, line)


def _lines(body: Iterable[bytes]) -> Iterator[bytes]:
    """Yields each line without its end; one that is too long is cut one byte past the limit."""
    kept = bytearray()
    for piece in body:
        *ends, rest = piece.split(b"\n")
        for end in ends:
            yield bytes(kept) + end[: MAX_LINE_BYTES + 1 - len(kept)]
            kept.clear()
        kept += rest[: MAX_LINE_BYTES + 1 - len(kept)]
    if kept:
        yield bytes(kept)


def _entry_of(number: int, line: bytes) -> Entry:
    default_name = f"line {number}"
    try:
        return _read_line(line, default_name)
    except ValidationFailed as error:
        errors = error.errors[:MAX_ERRORS]
        return refused_entry(
            default_name, ValidationFailed(f"Line {number}: {error.detail}", errors)
        )


def _read_line(line: bytes, default_name: str) -> Entry:
    if len(line) > MAX_LINE_BYTES:
        raise ValidationFailed(f"It has more than {MAX_LINE_BYTES} bytes.")
    given = _parse_line(line)
    last = _parse_uri(given.uri).path.rpartition("/")[2]
    name = clean_name(given.name) or clean_name(unquote(last)) or default_name
    return Entry(name, metadata=_metadata_of(given), uri=given.uri)


def _parse_line(line: bytes) -> _Line:
    try:
        return _Line.model_validate_json(line)
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":  # whose message counts lines of its own
            raise ValidationFailed("It is not JSON in UTF-8.") from None
        fields = fields_of(error, line)
        where = fields[0].location[:MAX_NAME_CHARS] or "line"
        raise ValidationFailed(f"{where}: {fields[0].message}.", fields) from None


def _metadata_of(given: _Line) -> Metadata | None:
    if given.metadata is None:
        return None
    return parse_metadata(metadata_json(given.metadata))


def _parse_uri(uri: str) -> SplitResult:
    # urlsplit drops some of these silently, so another address than the one listed would be taken.
    if _NOT_OF_URIS.search(uri) or clean_text(uri) != uri:
        raise _bad_uri("It has spaces or control characters; write a space as %20.")
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        raise _bad_uri("It cannot be read.") from None
    if "@" in parts.netloc or "#" in uri:
        raise _bad_uri("It may have neither credentials nor a fragment.")
    if parts.scheme == "file":
        _check_file(parts, uri)
    elif parts.scheme == "https":
        _check_https(parts)
    else:
        raise _bad_uri(_reason_of_scheme(parts.scheme))
    return parts


def _check_file(parts: SplitResult, uri: str) -> None:
    if parts.netloc.lower() not in {"", "localhost"} or not parts.path.startswith("/"):
        raise _bad_uri("A file: URI has an absolute path and no host, like file:///photos/cat.jpg.")
    if parts.path.endswith("/"):
        raise _bad_uri("It names a folder, not a file.")
    if "?" in uri:
        raise _bad_uri("A file: URI has no query; write ? in a name as %3F.")


def _check_https(parts: SplitResult) -> None:
    if not parts.hostname or not parts.path:
        raise _bad_uri("An https: URI has a host and a path, like https://example.com/cat.jpg.")


def _reason_of_scheme(scheme: str) -> str:
    if scheme == "s3":
        return "s3: is not supported yet, only file: and https: are."
    return "Only file: and https: are supported."


def _bad_uri(reason: str) -> ValidationFailed:
    return ValidationFailed(
        f"The URI is refused. {reason}", [FieldError(location=pointer("uri"), message=reason)]
    )
