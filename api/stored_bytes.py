"""Stored bytes as an answer: all of them, a range, or that the client has them already."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from flask import Response, request, send_file
from werkzeug.exceptions import RequestedRangeNotSatisfiable

from twinlens.api.answers import is_known
from twinlens.shared.names import clean_name, last_part

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

BYTES_TYPE = "application/octet-stream"
READ_BYTES = 64 * 1024
HEADERS = {
    "Accept-Ranges": "bytes",
    # The bytes under an id never change: the id is their hash.
    "Cache-Control": "private, max-age=31536000, immutable",
    "Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
    "Vary": "Accept",
}

_ONE_RANGE = re.compile(r"bytes=[ \t]*(?=-?[0-9])([0-9]{0,99})-([0-9]{0,99})[ \t]*", re.IGNORECASE)


def send_stored(file: BinaryIO, media_type: str, tag: str, name: str) -> Response:
    """Sends stored bytes, or the range of them that is asked for; never as a page or script.

    Args:
        file: The bytes. It is closed with the answer, or with the error.
        media_type: Of the picture. A client that accepts only `application/octet-stream` is told
            that instead.
        tag: The entity tag.
        name: What a browser calls the file that it saves.

    Raises:
        PreconditionFailed: The client wants another version.
        RequestedRangeNotSatisfiable: There is nothing in the range.
    """
    n_bytes = os.fstat(file.fileno()).st_size
    try:
        known = is_known(tag)
        part = None if known else _wanted_range(tag, n_bytes)
    except BaseException:
        file.close()
        raise
    response = send_file(
        file,
        mimetype=request.accept_mimetypes.best_match([media_type, BYTES_TYPE]) or media_type,
        # Names that were kept by an earlier version are cleaned here.
        download_name=last_part(clean_name(name)) or "image",
        conditional=False,
        etag=tag,
    )
    response.headers.update(HEADERS)
    response.content_length = n_bytes
    if known:
        response.status_code = 304
    elif part is not None:
        response.status_code = 206
        response.headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{n_bytes}"
        response.content_length = len(part)
        response.response = _read(file, part)
        response.direct_passthrough = False  # else nobody closes the file
        response.call_on_close(file.close)
    return response


def _wanted_range(tag: str, n_bytes: int) -> range | None:
    """Returns the range that is to be sent, where it is one and can be read.

    Raises:
        RequestedRangeNotSatisfiable: There is nothing in the range.

    Source:
        RFC 9110: 14.2, other methods and units, and what cannot be read, are ignored, and several
        ranges may be; 13.1.5, so are ranges of another version; 14.1.2, what is past the end.
    """
    match = _ONE_RANGE.fullmatch(request.headers.get("Range", ""))
    is_same = request.headers.get("If-Range", f'"{tag}"').strip() == f'"{tag}"'
    if request.method != "GET" or match is None or not is_same:
        return None
    first, last = (int(digits) if digits else None for digits in match.groups())
    if first is None:
        part = range(max(0, n_bytes - (last or 0)), n_bytes)
    elif last is None:
        part = range(first, n_bytes)
    elif last < first:
        return None
    else:
        part = range(first, min(last + 1, n_bytes))
    if not part:
        raise RequestedRangeNotSatisfiable(n_bytes)
    return part


def _read(file: BinaryIO, part: range) -> Iterator[bytes]:
    file.seek(part.start)
    for start in range(part.start, part.stop, READ_BYTES):
        yield file.read(min(READ_BYTES, part.stop - start))
