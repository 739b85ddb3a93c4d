"""Search with pictures, stored images or words; compare two pictures; find near-duplicates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint

from twinlens.api.accepting.intake import SearchRequest
from twinlens.api.accepting.terms import read_terms
from twinlens.api.access.checks import needs
from twinlens.api.answers import answer, answer_accepted
from twinlens.api.problems import answer_problem
from twinlens.api.reading.uploads import (
    MAX_QUERY_BYTES,
    Form,
    FormRules,
    as_chunks,
    parse_json,
    read_form,
    read_json,
)
from twinlens.api.routes import DEFAULT_PROBLEM, files, form, json_body, problems, ref
from twinlens.api.schemas import JobParameters, NoParameters, SubmitHeaders
from twinlens.api.services import current_services
from twinlens.shared.answers import JobAnswer
from twinlens.shared.errors import (
    FieldError,
    UnsupportedMedia,
    ValidationFailed,
    place,
    pointer,
)
from twinlens.shared.filters.language import parse_filter
from twinlens.shared.queries import (
    MAX_EXAMPLES,
    CompareQuery,
    Comparison,
    DuplicatesQuery,
    SearchQuery,
)
from twinlens.shared.queue import COMPARE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twinlens.shared.libraries import Library
    from twinlens.shared.messages import ModelSummary
    from twinlens.shared.redis.catalog import Catalog

# Two pictures of the largest size, once the waiting searches are done.
COMPARE_TIMEOUT_S = 15

# Without files.
_TWO_IDS = {"properties": {"image_ids": {"minItems": 2}}, "required": ["image_ids"]}

search = APIBlueprint(
    "search",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "search"}],
    abp_responses=DEFAULT_PROBLEM,
)


@search.post(
    "/search",
    operation_id="search",
    security=needs("read"),
    responses={200: JobAnswer, 202: JobAnswer, **problems(400, 404, 413, 415, 422, 503)},
    request_body={
        "required": True,
        "content": form(
            "file", file=files(MAX_EXAMPLES), negative=files(MAX_EXAMPLES), query=ref("SearchQuery")
        )
        | json_body("SearchQuery"),
    },
)
def search_images(query: JobParameters, header: SubmitHeaders) -> Response:
    """Find the images nearest to a picture, to words, or to both.

    Send multipart `file` with an optional JSON part `query`; or JSON with `image_id`, or with
    `text` if a model of the library has a text encoder. Several `file`, or ids in `positive`,
    are examples of one thing; `negative`, files or ids, are examples of what it is not. `text`
    and `negative_text` beside pictures say what else to look for, or to avoid.
    """
    services = current_services()
    services.readiness.check("search")
    terms = read_terms(services.settings, query, header)
    asked = _read_search(services.settings.max_picture_bytes)
    library = services.libraries.get(asked.query.library)
    _check_search(asked, library, services.catalog)
    accepted = services.intake.accept_search(library, asked, terms)
    return answer_accepted(services.job_views, accepted, header.prefer)


@search.post(
    "/compare",
    operation_id="compare",
    security=needs("read"),
    responses={200: Comparison, **problems(400, 404, 413, 415, 422, 503)},
    request_body={
        "required": True,
        "content": form("file", file=files(2), query=ref("CompareQuery"))
        | {"application/json": {"schema": {"allOf": [ref("CompareQuery"), _TWO_IDS]}}},
    },
)
def compare(query: NoParameters) -> Response:  # noqa: ARG001 (refuses any)
    """Show how near two pictures are under each model. Nothing is stored.

    Send multipart with two `file`, or one and the id of a stored image; or JSON with two ids.
    """
    services = current_services()
    services.readiness.check("search")
    body = _read_body(services.settings.max_picture_bytes, {"file": 2})
    wanted = parse_json(CompareQuery, body.json or b"{}", _json_part())
    sent = [content for _, content in body.files["file"]]
    library = services.libraries.get(wanted.library)
    library.choose(wanted.models)
    if len(sent) + len(wanted.image_ids) != 2:
        raise _bad_query(
            pointer("image_ids"), "Send exactly two pictures: files, or ids of stored images."
        )
    services.catalog.get_all(library.id, wanted.image_ids)
    reply = services.calls.call(COMPARE, {"query": wanted.model_dump()}, COMPARE_TIMEOUT_S, sent)
    if reply.error is not None:
        return answer_problem(reply.error)
    return answer(Comparison.model_validate(reply.value))


@search.post(
    "/duplicates",
    operation_id="findDuplicates",
    security=needs("read"),
    responses={200: JobAnswer, 202: JobAnswer, **problems(400, 404, 413, 415, 422, 503)},
    request_body={"required": True, "content": json_body("DuplicatesQuery")},
)
def find_duplicates(query: JobParameters, header: SubmitHeaders) -> Response:
    """Group a library's near-duplicates: copies and edits of one picture.

    Exact copies need no group: they are one image.
    """
    services = current_services()
    services.readiness.check("single")
    terms = read_terms(services.settings, query, header)
    wanted = parse_json(DuplicatesQuery, _read_json() or b"{}")
    library = services.libraries.get(wanted.library)
    models = services.catalog.models()
    _check_duplicates(library, [models[ref] for ref in library.models if ref in models], wanted)
    accepted = services.intake.accept_duplicates(library, wanted, terms)
    return answer_accepted(services.job_views, accepted, header.prefer)


def _check_duplicates(
    library: Library, models: Sequence[ModelSummary], wanted: DuplicatesQuery
) -> None:
    are_hashes = {one.metric == "HAMMING" for one in models}
    if True not in are_hashes:
        lacking = ("library", "Add a model that makes hashes, such as phash.")
    elif wanted.verify and False not in are_hashes:
        lacking = ("verify", "Hashes see no crops: leave it out, or add a model of another kind.")
    else:
        return
    place, message = lacking
    raise ValidationFailed(
        f"Library {library.name!r} cannot be searched for such duplicates.",
        [FieldError(location=pointer(place), message=message)],
    )


def _read_body(max_picture: int, files: Mapping[str, int]) -> Form:
    """Reads JSON, or a form of pictures with the JSON as its part `query`."""
    if request.mimetype == "multipart/form-data":
        rules = FormRules("query", MAX_QUERY_BYTES, max_picture, files)
        return read_form(request.content_type or "", as_chunks(request.stream), rules)
    if request.mimetype != "application/json":
        raise UnsupportedMedia("Send multipart/form-data with a part `file`, or application/json.")
    return Form({name: [] for name in files}, _read_json())


def _read_json() -> bytes:
    return read_json(request.stream, request.mimetype, MAX_QUERY_BYTES, "The query has")


def _read_search(max_picture: int) -> SearchRequest:
    body = _read_body(max_picture, {"file": MAX_EXAMPLES, "negative": MAX_EXAMPLES})
    wanted = parse_json(SearchQuery, body.json or b"{}", _json_part())
    positive, negative = ([content for _, content in body.files[n]] for n in ("file", "negative"))
    n_examples = len(positive) + len(wanted.example_ids)
    n_all = n_examples + len(negative) + len(wanted.negative)
    if _json_part() is not None and not positive and wanted.text is None:
        raise _bad_query(place("form", "file"), "The part is missing.")
    if wanted.text is None and not n_examples:
        field = "image_id" if wanted.negative_text is None else "negative_text"
        message = "Send a picture, a stored image or a text to search with."
        raise _bad_query(pointer(field), message)
    if n_all > MAX_EXAMPLES:
        raise _bad_query(pointer("positive"), f"Send at most {MAX_EXAMPLES} examples.")
    for name, is_asked in (("region", wanted.region), ("mode", wanted.mode == "near")):
        if is_asked and (n_examples != 1 or n_all != 1):
            raise _bad_query(pointer(name), "Use this with exactly one query picture.")
    if wanted.mode == "near" and wanted.has_words:
        message = "Copies of a picture are not looked for with words; leave one of both out."
        raise _bad_query(pointer("mode"), message)
    return SearchRequest(wanted, positive, negative)


def _check_search(asked: SearchRequest, library: Library, catalog: Catalog) -> None:
    """Refuses at once what the worker would refuse later.

    Raises:
        ModelNotFound: The library has no such model.
        ImageNotFound: The library has no such image.
        BadFilter: The filter cannot be read.
        ValidationFailed: No model understands the words, or one is named that is not asked.
    """
    wanted = asked.query
    refs = library.choose(wanted.models)
    if wanted.has_words:
        has_examples = bool(asked.positive or wanted.example_ids)
        refs = _choose_for_words(wanted, refs, catalog.models(), has_examples=has_examples)
    names = {ref.partition("@")[0] for ref in refs}
    for field in ("weights", "max_distance"):
        for name in getattr(wanted, field).keys() - names:
            library.ref_of(name, location := pointer(field, name))
            raise _bad_query(location, "The query does not ask this model.")
    if wanted.filter is not None:
        parse_filter(wanted.filter)
    catalog.get_all(library.id, [*wanted.example_ids, *wanted.negative])


def _choose_for_words(
    wanted: SearchQuery, refs: list[str], models: Mapping[str, ModelSummary], *, has_examples: bool
) -> list[str]:
    """Returns the models that take part in a query with words.

    Raises:
        ValidationFailed: None understands words; or one that was named does not, and there are no
            pictures to ask it with.
    """
    knowing = [ref for ref in refs if ref in models and models[ref].has_text]
    deaf = [ref for ref in refs if ref not in knowing]
    if not knowing or (deaf and wanted.models is not None and not has_examples):
        field = "negative_text" if wanted.text is None else "text"
        raise _bad_query(pointer(field), f"No text encoder in: {', '.join(deaf) or 'any model'}.")
    return refs if has_examples else knowing


def _json_part() -> str | None:
    """Returns the part of a form that the query is in; None where it is the body itself."""
    return None if request.mimetype == "application/json" else "query"


def _bad_query(location: str, message: str) -> ValidationFailed:
    return ValidationFailed(
        "The query is not valid.", [FieldError(location=location, message=message)]
    )
