"""What can be asked: models, libraries, and how much of everything there is."""

from __future__ import annotations

import math

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint
from pydantic import TypeAdapter

from twinlens.api.answers import answer, answer_accepted, page_by_name
from twinlens.api.gateway import Gateway, current_gateway
from twinlens.api.intake import Accepted
from twinlens.api.libraries import plan_library, remove_library, roll_back
from twinlens.api.routes import DEFAULT_PROBLEM, problems
from twinlens.api.schemas import (
    Backlog,
    JobAnswer,
    LibraryPage,
    LibraryPath,
    LibraryPlan,
    LibraryStats,
    ModelPage,
    ModelPath,
    NoParameters,
    PageParameters,
    Stats,
    WaitHeaders,
)
from twinlens.api.uploads import MAX_QUERY_BYTES, parse_json, read_json
from twinlens.shared.errors import Unavailable
from twinlens.shared.libraries import Library
from twinlens.shared.messages import ModelSummary
from twinlens.shared.presence import WorkerStatus
from twinlens.shared.queue import COUNT_VECTORS

COUNT_TIMEOUT_S = 5
HOUR_S = 3600

_COUNTS = TypeAdapter(dict[str, int])

models = APIBlueprint(
    "models",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "models and libraries"}],
    abp_responses=DEFAULT_PROBLEM,
)


@models.get("/models", operation_id="listModels", responses={200: ModelPage, **problems(422)})
def list_models(query: PageParameters) -> Response:
    """List the models, by name."""
    found = list(current_gateway().catalog.models().items())
    items, cursor = page_by_name(found, query.limit, query.cursor)
    return answer(ModelPage(items=items, next_cursor=cursor))


@models.get(
    "/models/<name>", operation_id="getModel", responses={200: ModelSummary, **problems(404)}
)
def get_model(path: ModelPath, query: NoParameters) -> Response:  # noqa: ARG001 (refuses any)
    """Get a model's card, by name@version or, where there is one version, by name."""
    return answer(current_gateway().catalog.model(path.name))


@models.get(
    "/libraries", operation_id="listLibraries", responses={200: LibraryPage, **problems(422)}
)
def list_libraries(query: PageParameters) -> Response:
    """List the libraries, by name."""
    found = [(library.name, library) for library in current_gateway().libraries()]
    items, cursor = page_by_name(found, query.limit, query.cursor)
    return answer(LibraryPage(items=items, next_cursor=cursor))


@models.put(
    "/libraries/<name>",
    operation_id="putLibrary",
    responses={
        200: Library,
        201: Library,
        202: JobAnswer,
        **problems(400, 404, 409, 415, 422, 503),
    },
    request_body={
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/LibraryPlan"}}},
    },
)
def put_library(path: LibraryPath, query: NoParameters, header: WaitHeaders) -> Response:  # noqa: ARG001 (refuses any)
    """Create a library, or change its models, weights, index or metric.

    Where stored pictures have to be embedded for that, a `reindex` job does it. Searches go on as
    they were until it has ended; then the change is switched on whole.
    """
    text = read_json(request.stream, request.mimetype, MAX_QUERY_BYTES, "A library's plan has")
    gateway = current_gateway()
    planned = plan_library(gateway, path.name, parse_json(LibraryPlan, text, location=""))
    if planned.job is not None:
        return answer_accepted(gateway, Accepted(planned.job, is_new=True), header.prefer)
    return answer(planned.library, 201 if planned.is_new else 200)


@models.get(
    "/libraries/<name>", operation_id="getLibrary", responses={200: Library, **problems(404)}
)
def get_library(path: LibraryPath, query: NoParameters) -> Response:  # noqa: ARG001 (refuses any)
    """Get a library."""
    return answer(current_gateway().library(path.name))


@models.delete(
    "/libraries/<name>",
    operation_id="deleteLibrary",
    responses={200: JobAnswer, 202: JobAnswer, **problems(404, 409)},
)
def delete_library(path: LibraryPath, query: NoParameters, header: WaitHeaders) -> Response:  # noqa: ARG001 (refuses any)
    """Remove a library with all of its images."""
    gateway = current_gateway()
    job = remove_library(gateway, path.name)
    return answer_accepted(gateway, Accepted(job, is_new=True), header.prefer)


@models.post(
    "/libraries/<name>/rollback",
    operation_id="rollBackLibrary",
    responses={200: Library, **problems(404, 409)},
)
def roll_back_library(path: LibraryPath, query: NoParameters) -> Response:  # noqa: ARG001 (refuses any)
    """Give up a change that is being made; without one, go back to the edition before."""
    return answer(roll_back(current_gateway(), path.name))


@models.get("/stats", operation_id="getStats", responses={200: Stats})
def get_stats(query: NoParameters) -> Response:  # noqa: ARG001 (refuses any)
    """Count images and vectors by library, and what waits; list the workers."""
    gateway = current_gateway()
    libraries, workers = gateway.libraries(), gateway.workers()
    vectors = _count_vectors(gateway, libraries)
    return answer(
        Stats(
            libraries={
                library.name: LibraryStats(
                    images=gateway.catalog.count(library.name), vectors=vectors.get(library.name)
                )
                for library in libraries
            },
            queues=gateway.queue_lengths(),
            backlog=_backlog_of(gateway.feed.backlog(), workers),
            workers=workers,
        )
    )


def _backlog_of(n_pictures: int, workers: list[WorkerStatus]) -> Backlog:
    bulk = [worker for worker in workers if "bulk" in worker.lanes]
    busy_s = sum(worker.busy_s for worker in bulk)
    n_done = sum(worker.n_pictures for worker in bulk)
    # The pictures of a process's first chunk are counted before its time is.
    one_per_s = n_done / busy_s if n_done and busy_s else None
    return Backlog(
        pictures=n_pictures,
        pictures_per_s=round(sum(worker.pictures_per_s for worker in bulk), 2),
        process_pictures_per_s=one_per_s and round(one_per_s, 2),
        processes_for_an_hour=one_per_s and math.ceil(n_pictures / one_per_s / HOUR_S),
    )


def _count_vectors(gateway: Gateway, libraries: list[Library]) -> dict[str, dict[str, int]]:
    """Asks the workers; the first library that nobody answers for is the last asked for."""
    counts: dict[str, dict[str, int]] = {}
    for library in libraries:
        try:
            reply = gateway.call(COUNT_VECTORS, {"library": library.name}, COUNT_TIMEOUT_S)
        except Unavailable:
            break
        if reply.error is None:
            counts[library.name] = _COUNTS.validate_python(reply.value)
    return counts
