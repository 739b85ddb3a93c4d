"""Whether the service is alive and ready, its OpenAPI document, and the page that shows it."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, TypeVar, cast

from flask import Blueprint, Response, current_app, redirect
from flask.typing import ResponseReturnValue
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.openapi import OpenAPI
from redis import RedisError

from twinlens.api.access.checks import needs_none, sees_library
from twinlens.api.answers import answer
from twinlens.api.routes import DEFAULT_PROBLEM, problems
from twinlens.api.services import current_services
from twinlens.shared.answers import Alive, Ready
from twinlens.shared.errors import FieldError, Unavailable
from twinlens.shared.messages import WorkerStatus
from twinlens.shared.queue import LANES
from twinlens.shared.redis.presence import PROOF_S, live_workers

if TYPE_CHECKING:
    from twinlens.api.services import Services
    from twinlens.shared.libraries import Library

SaidT = TypeVar("SaidT")

health = APIBlueprint(
    "health", __name__, abp_tags=[{"name": "health"}], abp_responses=DEFAULT_PROBLEM
)
# Swagger UI comes from this machine: a self-hosted service's page loads nothing from elsewhere.
docs = Blueprint(
    "docs",
    __name__,
    static_folder=str(files("flask_openapi_swagger") / "templates" / "swagger"),
    static_url_path="/docs/static",
)

_DOCS_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Twinlens API</title>
<link rel="icon" href="docs/static/images/swagger.svg">
<link rel="stylesheet" href="docs/static/css/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="docs/static/js/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</html>
"""
_DOCS_START = """\
SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null})
"""
# Swagger UI writes styles into its elements, and has pictures as data: URLs.
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@health.get("/livez", operation_id="isAlive", security=needs_none(), responses={200: Alive})
def livez() -> Response:
    """Check that the process is alive."""
    return answer(Alive())


@health.get(
    "/readyz",
    operation_id="isReady",
    security=needs_none(),
    responses={200: Ready, **problems(503)},
)
def readyz() -> Response:
    """Check that Redis, Milvus and a worker for each lane work, and a library lacks nothing.

    Every lane has ended a task lately, a probe if nothing else, or works on one. Single processes
    with a fault, and libraries that lack something, are named in any case, to a caller who may know
    of them; as long as one has all, the service is ready.
    """
    services = current_services()
    try:
        ready = services.probe.run(lambda: _check_parts(services))
    except TimeoutError:
        message = "They do not answer within a second."
        raise Unavailable(
            "Not ready: parts.", [FieldError(location="parts", message=message)]
        ) from None
    except Unavailable as error:
        raise Unavailable(error.detail, [one for one in error.errors if _is_seen(one)]) from None
    return answer(
        ready.model_copy(
            update={"lacks": _seen(ready.lacks), "missing_models": _seen(ready.missing_models)}
        )
    )


def _is_seen(error: FieldError) -> bool:
    """Tells if the caller may know of an error: those of libraries name them."""
    part, _, library = error.location.partition(":")
    return part != "library" or sees_library(library)


def _seen(by_library: dict[str, SaidT]) -> dict[str, SaidT]:
    return {name: told for name, told in by_library.items() if sees_library(name)}


def _check_parts(services: Services) -> Ready:
    workers: list[WorkerStatus] = []
    missing: list[FieldError] = []
    libraries: list[Library] = []
    missing_models: dict[str, list[str]] = {}
    lacks: dict[str, str] = {}
    without_record: dict[str, str] = {}
    try:
        workers = live_workers(services.redis)
        libraries = services.libraries.all()
        missing_models = services.libraries.missing_models(libraries)
        lacks = services.libraries.lacks(libraries)
        without_record = services.libraries.without_record(services.blobs.library_ids(), libraries)
    except RedisError:
        missing.append(FieldError(location="redis", message="Redis does not answer."))
    except OSError as error:
        message = f"The pictures cannot be read: {error.strerror}."
        missing.append(FieldError(location="pictures", message=message))
    else:
        missing += [lack for lane in LANES if (lack := _lack_of(lane, workers))]
    if not services.readiness.is_milvus_listening():
        missing.append(FieldError(location="milvus", message="Milvus does not accept connections."))
    lacking = [
        FieldError(location=f"library:{name}", message=message)
        for name, message in (lacks | without_record).items()
    ]
    if missing:
        parts = ", ".join(part.location for part in missing)
        raise Unavailable(f"Not ready: {parts}.", missing + lacking)
    if len(lacks) == len(libraries):
        raise Unavailable("Not ready: every library lacks models or embeddings.", lacking)
    n_by_lane = {lane: _count(lane, workers) for lane in LANES}
    faults = {worker.name: worker.fault for worker in workers if worker.fault is not None}
    return Ready(
        workers=n_by_lane,
        missing_models=missing_models,
        lacks=lacks | without_record,
        faults=faults,
    )


@docs.get("/openapi.json")
def openapi_document() -> Response:
    """Serves the OpenAPI document.

    In its own order: of several types of an answer, generated code takes the first that it knows.
    """
    text = json.dumps(cast("OpenAPI", current_app).api_doc)
    return Response(text, mimetype="application/json")


@docs.get("/docs")
def docs_page() -> Response:
    """Serves Swagger UI."""
    response = Response(_DOCS_PAGE, mimetype="text/html")
    response.headers["Content-Security-Policy"] = _DOCS_POLICY
    return response


@docs.get("/docs/start.js")
def docs_start() -> Response:
    """Serves what starts Swagger UI: the page itself may hold no script."""
    return Response(_DOCS_START, mimetype="text/javascript")


@docs.get("/")
def home() -> ResponseReturnValue:
    """Redirects to the page for people."""
    return redirect("/docs")


def _count(lane: str, workers: list[WorkerStatus]) -> int:
    return sum(lane in worker.lanes for worker in workers)


def _lack_of(lane: str, workers: list[WorkerStatus]) -> FieldError | None:
    """Returns what a lane lacks, if anything: a process in order, or the proof that it works."""
    there = [worker for worker in workers if lane in worker.lanes]
    good = [worker for worker in there if worker.fault is None]
    if any(_is_proven(worker) for worker in good):
        return None
    if not there:
        message = "No worker is running."
    elif not good:
        message = f"{there[0].name}: {there[0].fault}"
    else:
        message = f"No task has ended in {PROOF_S:.0f} s, and none is running."
    return FieldError(location=f"worker:{lane}", message=message)


def _is_proven(worker: WorkerStatus) -> bool:
    if worker.task_left_s is not None:
        return True
    return worker.idle_s is not None and worker.idle_s <= PROOF_S
