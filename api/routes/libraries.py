"""Libraries: created, changed, read, removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint

from twinlens.api.accepting.submission import Accepted
from twinlens.api.accepting.terms import read_terms
from twinlens.api.access.checks import needs
from twinlens.api.answers import answer, answer_accepted, page_by_name
from twinlens.api.reading.uploads import MAX_QUERY_BYTES, parse_json, read_json
from twinlens.api.routes import DEFAULT_PROBLEM, json_body, problems
from twinlens.api.schemas import (
    JobParameters,
    KeyHeaders,
    LibraryPath,
    NoParameters,
    PageParameters,
    WaitHeaders,
    WebhookParameters,
)
from twinlens.api.services import current_services
from twinlens.shared.answers import (
    JobAnswer,
    JobPage,
    LibraryAnswer,
    LibraryPage,
    LibraryPlan,
    ReconcileQuery,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twinlens.shared.libraries import Library

libraries = APIBlueprint(
    "libraries",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "models and libraries"}],
    abp_responses=DEFAULT_PROBLEM,
)


@libraries.get(
    "/libraries",
    operation_id="listLibraries",
    security=needs("read"),
    responses={200: LibraryPage, **problems(422)},
)
def list_libraries(query: PageParameters) -> Response:
    """List the libraries, by name."""
    named = [(library.name, library) for library in current_services().libraries.visible()]
    items, cursor = page_by_name(named, query.limit, query.cursor)
    return answer(LibraryPage(items=_answers(items), next_cursor=cursor))


@libraries.put(
    "/libraries/<name>",
    operation_id="putLibrary",
    security=needs("admin"),
    responses={
        200: LibraryAnswer,
        201: LibraryAnswer,
        202: JobAnswer,
        **problems(400, 404, 409, 415, 422, 503),
    },
    request_body={"required": True, "content": json_body("LibraryPlan")},
)
def put_library(path: LibraryPath, query: JobParameters, header: WaitHeaders) -> Response:
    """Create a library, or change its models, weights, index or metric.

    If stored pictures have to be embedded for that, a `reindex` job does it. Until it has ended,
    searches work as before; then the whole change takes effect at once.
    """
    text = read_json(request.stream, request.mimetype, MAX_QUERY_BYTES, "The library's plan has")
    services = current_services()
    terms = read_terms(services.settings, query)
    planned = services.libraries.plan(path.name, parse_json(LibraryPlan, text), terms)
    if planned.job is not None:
        accepted = Accepted(planned.job, is_new=True)
        return answer_accepted(services.job_views, accepted, header.prefer)
    return _answer(planned.library, 201 if planned.is_new else 200)


@libraries.get(
    "/libraries/<name>",
    operation_id="getLibrary",
    security=needs("read"),
    responses={200: LibraryAnswer, **problems(404)},
)
def get_library(path: LibraryPath, query: NoParameters) -> Response:  # noqa: ARG001 (refuses any)
    """Get a library."""
    return _answer(current_services().libraries.get(path.name))


@libraries.delete(
    "/libraries/<name>",
    operation_id="deleteLibrary",
    security=needs("admin"),
    responses={200: JobAnswer, 202: JobAnswer, **problems(404, 409, 422)},
)
def delete_library(path: LibraryPath, query: WebhookParameters, header: WaitHeaders) -> Response:
    """Remove a library with all of its images."""
    services = current_services()
    terms = read_terms(services.settings, query)
    job = services.libraries.remove(path.name, terms)
    return answer_accepted(services.job_views, Accepted(job, is_new=True), header.prefer)


@libraries.post(
    "/libraries/<name>/rollback",
    operation_id="rollBackLibrary",
    security=needs("admin"),
    responses={200: LibraryAnswer, **problems(404, 409)},
)
def roll_back_library(path: LibraryPath, query: NoParameters) -> Response:  # noqa: ARG001 (refuses any)
    """Give up a change that is being made; without one, go back to the previous edition."""
    return _answer(current_services().libraries.roll_back(path.name))


@libraries.post(
    "/reconcile",
    operation_id="reconcile",
    security=needs("admin"),
    responses={202: JobPage, **problems(400, 404, 409, 415, 422, 503)},
    request_body={"required": True, "content": json_body("ReconcileQuery")},
)
def reconcile(query: JobParameters, header: KeyHeaders) -> Response:
    """Compare what the stores have of libraries, and bring back what one has lost.

    Each library is a job of its own, whose result tells the differences. With `check`, nothing is
    changed. It can be repeated, and may run while the service is used.
    """
    text = read_json(request.stream, request.mimetype, MAX_QUERY_BYTES, "The request has")
    asked = parse_json(ReconcileQuery, text)
    services = current_services()
    services.readiness.check("single")
    terms = read_terms(services.settings, query, header)
    jobs = services.reconciliations.ask(asked, terms)
    return answer(JobPage(items=list(map(services.job_views.answer, jobs)), next_cursor=None), 202)


def _answers(libraries: Iterable[Library]) -> list[LibraryAnswer]:
    there = list(libraries)
    missing = current_services().libraries.missing_models(there)
    return [
        LibraryAnswer(**library.model_dump(), missing_models=missing.get(library.name, []))
        for library in there
    ]


def _answer(library: Library, status: int = 200) -> Response:
    [told] = _answers([library])
    return answer(told, status)
