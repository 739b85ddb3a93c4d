"""What can be asked: models, libraries, and how much of everything there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from pydantic import TypeAdapter

from twinlens.api.answers import answer, page_by_name
from twinlens.api.gateway import Gateway, current_gateway
from twinlens.api.routes import DEFAULT_PROBLEM, problems
from twinlens.api.schemas import (
    LibraryPage,
    LibraryStats,
    ModelPage,
    ModelPath,
    NoParameters,
    PageParameters,
    Stats,
)
from twinlens.shared.errors import ModelNotFound, Unavailable
from twinlens.shared.messages import ModelSummary
from twinlens.shared.queue import COUNT_VECTORS

if TYPE_CHECKING:
    from twinlens.shared.messages import Library

COUNT_TIMEOUT_S = 5

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
    """Get a model's card."""
    found = current_gateway().catalog.models()
    if path.name not in found:
        there = ", ".join(found) or "none yet"
        raise ModelNotFound(f"There is no model {path.name!r}; there are: {there}.")
    return answer(found[path.name])


@models.get(
    "/libraries", operation_id="listLibraries", responses={200: LibraryPage, **problems(422)}
)
def list_libraries(query: PageParameters) -> Response:
    """List the libraries, by name."""
    found = [(library.name, library) for library in current_gateway().libraries()]
    items, cursor = page_by_name(found, query.limit, query.cursor)
    return answer(LibraryPage(items=items, next_cursor=cursor))


@models.get("/stats", operation_id="getStats", responses={200: Stats})
def get_stats(query: NoParameters) -> Response:  # noqa: ARG001 (refuses any)
    """Count images and vectors by library, waiting tasks by queue, and list the workers."""
    gateway = current_gateway()
    libraries = gateway.libraries()
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
            workers=gateway.workers(),
        )
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
