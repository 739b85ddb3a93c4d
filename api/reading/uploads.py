"""Uploads as streams of entries: a name, and the bytes or why they are refused.

Nothing here looks into a picture: the worker decides what the bytes are.
"""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from twinlens.api.problems import fields_of
from twinlens.api.reading.multipart import Part, read_parts
from twinlens.shared.blobs import image_id_of
from twinlens.shared.errors import (
    BadRequest,
    EmptyPicture,
    FieldError,
    PayloadTooLarge,
    Problem,
    TwinlensError,
    UnsupportedMedia,
    ValidationFailed,
    place,
    pointer,
)
from twinlens.shared.messages import Metadata, SentMetadata
from twinlens.shared.names import MAX_NAME_CHARS, clean_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MAX_METADATA_BYTES = 16 * 1024
# As much as the largest query that fits its schema, with a thousand ids to leave out.
MAX_QUERY_BYTES = 256 * 1024
READ_BYTES = 64 * 1024
# Gunicorn receives up to this much at once, and copies what it holds with each smaller read.
BODY_BYTES = 1024 * 1024
METADATA_RULE = "It must be a flat JSON object of strings, numbers, booleans and lists of strings."

# Neither NaN nor infinity is JSON, though Python reads both.
_METADATA: TypeAdapter[Metadata] = TypeAdapter(SentMetadata, config=ConfigDict(allow_inf_nan=False))

Model = TypeVar("Model", bound=BaseModel)


class Earlier(NamedTuple):
    """A picture that came before in the same upload."""

    image_id: str
    n_bytes: int


@dataclass(frozen=True)
class Entry:
    """A picture of an upload: its bytes, where they are, or why it is refused."""

    name: str
    content: bytes = b""
    metadata: Metadata | None = None  # None: nothing is said of them
    error: Problem | None = None
    uri: str | None = None  # where the worker is to fetch the bytes
    earlier: Earlier | None = None  # the picture that it is a link to
    is_passed_over: bool = False  # it plainly is no picture: it is counted, and no more

    @cached_property
    def image_id(self) -> str:
        """Of its bytes, where it has any."""
        return image_id_of(self.content)


def picture_entry(name: str, content: bytes | None, max_bytes: int) -> Entry:
    """Returns the entry for a picture that was read up to a limit; None if it was over it."""
    if content is None:
        return refused_entry(name, too_large(max_bytes))
    if not content:
        return refused_entry(name, EmptyPicture("The file has no bytes."))
    return Entry(name, content)


def refused_entry(name: str, error: TwinlensError) -> Entry:
    """Returns an entry that becomes a failed item."""
    return Entry(name, error=error.to_problem())


def too_large(max_bytes: int) -> PayloadTooLarge:
    """Returns the error for a picture that is over its limit."""
    return PayloadTooLarge(f"The picture has more than {max_bytes} bytes.")


def read_at_most(chunks: Iterable[bytes], max_bytes: int) -> bytes | None:
    """Reads a stream to its end, keeping it only up to a limit.

    Returns:
        The bytes, or None if there were more.
    """
    kept = bytearray()
    is_over = False
    for chunk in chunks:
        is_over = is_over or len(kept) + len(chunk) > max_bytes
        if is_over:
            kept.clear()
        else:
            kept += chunk
    return None if is_over else bytes(kept)


def read_json(stream: Any, media_type: str, max_bytes: int, what: str) -> bytes:
    """Reads a request that is JSON and nothing else.

    Args:
        stream: The body.
        media_type: What it says it is.
        max_bytes: Largest size of the body.
        what: Beginning of the error, e.g. "The query has".

    Raises:
        UnsupportedMedia: It is not JSON.
        PayloadTooLarge: It is over its limit.
    """
    if media_type != "application/json":
        raise UnsupportedMedia("Send application/json.")
    text = read_at_most(as_chunks(stream), max_bytes)
    if text is None:
        raise PayloadTooLarge(f"{what} more than {max_bytes} bytes.")
    return text


@dataclass
class Form:
    """A form of some pictures and one JSON part, any of which may be missing."""

    files: dict[str, list[tuple[str, bytes]]]  # file names and bytes, by the name of the part
    json: bytes | None = None


@dataclass(frozen=True)
class FormRules:
    """What a form may contain."""

    json_part: str
    max_json: int
    max_picture: int  # bytes of all pictures together
    files: Mapping[str, int]  # how many pictures at most, by the name of the part


def read_form(content_type: str, body: Iterable[bytes], rules: FormRules) -> Form:
    """Reads a form of pictures and a JSON part.

    Raises:
        ValidationFailed: A part is unknown or comes too often, or the JSON part is too long.
        PayloadTooLarge: The pictures are over their limit.
        EmptyPicture: A picture has no bytes.
    """
    form = Form({name: [] for name in rules.files})
    n_bytes = 0
    for part in read_parts(content_type, body, max_parts=sum(rules.files.values()) + 8):
        if part.name == rules.json_part and form.json is None:
            form.json = read_at_most(part.chunks, rules.max_json)
            if form.json is None:
                raise _unexpected(part, f"It has more than {rules.max_json} bytes.")
        elif len(form.files.get(part.name, ())) < rules.files.get(part.name, 0):
            content = read_picture(part.chunks, rules.max_picture, n_bytes)
            n_bytes += len(content)
            form.files[part.name].append((part.file_name, content))
        else:
            taken = [f"{n} `{name}`" for name, n in rules.files.items()]
            raise _unexpected(part, f"Send at most {', '.join(taken)} and one `{rules.json_part}`.")
    return form


def read_picture(chunks: Iterable[bytes], max_bytes: int, n_before: int = 0) -> bytes:
    """Reads a picture of a request that has one, or a few.

    Args:
        chunks: The picture.
        max_bytes: The limit of all pictures of the request.
        n_before: How many bytes those before it had.

    Raises:
        PayloadTooLarge: It is over its limit. The rest of it is not read.
        EmptyPicture: It has no bytes.
    """
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if n_before + len(content) > max_bytes:
            if n_before:
                raise PayloadTooLarge(f"The pictures have more than {max_bytes} bytes together.")
            raise too_large(max_bytes)
    if not content:
        raise EmptyPicture("The file has no bytes.")
    return bytes(content)


def form_entries(
    content_type: str, body: Iterable[bytes], max_items: int, max_picture: int
) -> Iterator[Entry]:
    """Yields the pictures of a form with any number of `files`.

    A JSON part `metadata` belongs to the `files` part that comes next. If it is not valid, that
    picture becomes a refused entry, and the rest is still read.

    Raises:
        ValidationFailed: A part has another name, or a `metadata` has no picture.
        PayloadTooLarge: There are too many pictures.
    """
    n_items = 0
    metadata: Metadata | ValidationFailed | None = None
    for part in read_parts(content_type, body, max_parts=2 * max_items + 2):
        if part.name == "metadata":
            if metadata is not None:
                raise _lone_metadata()
            metadata = _read_metadata(part)
            continue
        if part.name != "files":
            raise _unexpected(part, "Send only `files`, each after an optional `metadata`.")
        n_items += 1
        if n_items > max_items:
            raise PayloadTooLarge(f"The form has more than {max_items} pictures.")
        yield _form_entry(part, metadata, max_picture)
        metadata = None
    if metadata is not None:
        raise _lone_metadata()


def _form_entry(
    part: Part, metadata: Metadata | ValidationFailed | None, max_picture: int
) -> Entry:
    name = part.file_name
    if isinstance(metadata, ValidationFailed):
        return refused_entry(name, metadata)
    entry = picture_entry(name, read_at_most(part.chunks, max_picture), max_picture)
    return replace(entry, metadata=metadata)


def _read_metadata(part: Part) -> Metadata | ValidationFailed:
    """Returns a picture's metadata, or why they are refused: the picture comes after them."""
    text = read_at_most(part.chunks, MAX_METADATA_BYTES)
    if text is None:
        return ValidationFailed(f"The metadata has more than {MAX_METADATA_BYTES} bytes.")
    try:
        return parse_metadata(text)
    except ValidationFailed as error:
        return error


def _lone_metadata() -> ValidationFailed:
    message = "Put it before the `files` part that it belongs to."
    return ValidationFailed(
        "A `metadata` part has no picture.",
        [FieldError(location=place("form", "metadata"), message=message)],
    )


def without_mark(text: bytes) -> bytes:
    """Returns JSON without the byte order mark that some programs begin it with."""
    return text.removeprefix(codecs.BOM_UTF8)


def metadata_json(metadata: Mapping[str, object]) -> bytes:
    """Returns metadata that are a part of some JSON, as JSON of their own.

    Raises:
        ValidationFailed: They are over their limit.
    """
    text = json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode()
    if len(text) > MAX_METADATA_BYTES:
        raise ValidationFailed(f"The metadata has more than {MAX_METADATA_BYTES} bytes.")
    return text


def parse_metadata(text: bytes) -> Metadata:
    """Reads a `metadata` part: a flat JSON object. Its words are cleaned, as they are shown.

    Raises:
        ValidationFailed: It is something else.
    """
    try:
        return _METADATA.validate_json(without_mark(text))
    except ValidationError as error:
        # One error a key, where pydantic has one for each type that the value might have had.
        keys = dict.fromkeys(problem["loc"][:1] for problem in error.errors())
        raise ValidationFailed(
            f"The metadata is not valid. {METADATA_RULE}",
            [FieldError(location=pointer("metadata", *key), message=METADATA_RULE) for key in keys],
        ) from error


def parse_json(model: type[Model], text: bytes, part: str | None = None) -> Model:
    """Reads a JSON text as one of our types.

    Args:
        model: The type.
        text: JSON.
        part: Name of the part of a form that holds it, if it is not the whole body.

    Raises:
        BadRequest: The whole body is not JSON.
        ValidationFailed: The part is not JSON; a field is missing, unknown or out of range.
    """
    text = without_mark(text)
    try:
        # As the document says: a number is no string, and 1 is not true.
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        [first, *_] = error.errors()
        if first["type"] != "json_invalid":
            fields = fields_of(error, text)
        elif part is None:
            raise BadRequest("The body is not JSON.") from error
        else:
            fields = [FieldError(location=place("form", part), message=first["msg"])]
        raise ValidationFailed(f"The {part or 'body'} is not valid.", fields) from error


def _unexpected(part: Part, message: str) -> ValidationFailed:
    name = clean_text(part.name)[:MAX_NAME_CHARS]
    return ValidationFailed(
        f"The part {name!r} is refused. {message}",
        [FieldError(location=place("form", name), message=message)],
    )


def as_chunks(stream: Any, n_bytes: int = READ_BYTES) -> Iterator[bytes]:
    """Yields a file-like object's bytes in pieces."""
    return iter(lambda: stream.read(n_bytes), b"")
