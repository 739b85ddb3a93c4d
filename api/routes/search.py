"""Search with a picture, or with an image that is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint

from twinlens.api.answers import answer_accepted
from twinlens.api.gateway import current_gateway
from twinlens.api.idempotency import scoped_key
from twinlens.api.intake import accept_search
from twinlens.api.routes import DEFAULT_PROBLEM, form, problems
from twinlens.api.schemas import JobAnswer, NoParameters, SubmitHeaders
from twinlens.api.uploads import (
    MAX_QUERY_BYTES,
    as_chunks,
    parse_json,
    read_at_most,
    read_form,
)
from twinlens.shared.errors import (
    FieldError,
    PayloadTooLarge,
    UnsupportedMedia,
    ValidationFailed,
)
from twinlens.shared.messages import SearchQuery

if TYPE_CHECKING:
    from twinlens.api.gateway import Gateway

_QUERY_REF = {"$ref": "#/components/schemas/SearchQuery"}

search = APIBlueprint(
    "search",
    __name__,
    url_prefix="/v1/search",
    abp_tags=[{"name": "search"}],
    abp_responses=DEFAULT_PROBLEM,
)


@search.post(
    "",
    operation_id="search",
    responses={200: JobAnswer, 202: JobAnswer, **problems(400, 404, 413, 415, 422, 503)},
    request_body={
        "required": True,
        "content": form("file", file={"type": "string", "format": "binary"}, query=_QUERY_REF)
        | {"application/json": {"schema": _QUERY_REF}},
    },
)
def search_images(query: NoParameters, header: SubmitHeaders) -> Response:  # noqa: ARG001 (refuses any)
    """Find the images nearest to a picture.

    As multipart `file` with an optional JSON part `query`, or as JSON with `image_id`, or with
    `text` where a model of the library has a text encoder.
    """
    gateway = current_gateway()
    gateway.check_ready("search")
    wanted, picture = _read_query(gateway.settings.max_picture_bytes)
    _check_names(gateway, wanted)
    key = scoped_key(request.method, request.path, header.idempotency_key)
    accepted = accept_search(gateway, wanted, picture, key)
    return answer_accepted(gateway, accepted, header.prefer)


def _read_query(max_picture: int) -> tuple[SearchQuery, bytes | None]:
    body = as_chunks(request.stream)
    if request.mimetype == "application/json":
        text = read_at_most(body, MAX_QUERY_BYTES)
        if text is None:
            raise PayloadTooLarge(f"A query has at most {MAX_QUERY_BYTES} bytes.")
        wanted = parse_json(SearchQuery, text, location="")
        if (wanted.image_id is None) == (wanted.text is None):
            message = "A query without a picture has either a stored image or a text."
            raise _bad_field("/image_id", message)
        return wanted, None
    if request.mimetype == "multipart/form-data":
        return _read_form(request.content_type or "", max_picture)
    raise UnsupportedMedia("Send multipart/form-data with a part `file`, or application/json.")


def _read_form(content_type: str, max_picture: int) -> tuple[SearchQuery, bytes]:
    body = as_chunks(request.stream)
    sent = read_form(content_type, body, "query", MAX_QUERY_BYTES, max_picture)
    wanted = parse_json(SearchQuery, b"{}" if sent.json is None else sent.json, location="query")
    if sent.content is None:
        raise _bad_field("file", "The part is missing.")
    for name in ("image_id", "text"):
        if getattr(wanted, name) is not None:
            raise _bad_field(f"query/{name}", "A query with a picture has nothing else to go by.")
    return wanted, sent.content


def _check_names(gateway: Gateway, wanted: SearchQuery) -> None:
    """Refuses at once what the worker would refuse later.

    Raises:
        LibraryNotFound: There is no such library.
        ModelNotFound: The library has no such model.
        ImageNotFound: The library has no such image.
    """
    library = gateway.library(wanted.library)
    refs = library.choose(wanted.models)
    if wanted.text is not None:
        _check_text(gateway, refs, is_named=wanted.models is not None)
    if wanted.image_id is not None:
        gateway.catalog.get(library.name, wanted.image_id)


def _check_text(gateway: Gateway, refs: list[str], *, is_named: bool) -> None:
    """Refuses words where no model understands them, or one that was named does not."""
    models = gateway.catalog.models()
    deaf = [ref for ref in refs if ref not in models or not models[ref].has_text]
    if len(deaf) == len(refs) or (deaf and is_named):
        raise _bad_field("/text", f"Without a text encoder: {', '.join(deaf) or 'all models'}.")


def _bad_field(location: str, message: str) -> ValidationFailed:
    return ValidationFailed(
        "The query is not valid.", [FieldError(location=location, message=message)]
    )
