"""The application: the only place that wires Flask, the routes and the services together."""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import TYPE_CHECKING

from flask import Flask, Response, g, request
from flask_openapi.models.info import Info
from flask_openapi.openapi import OpenAPI

from twinlens import __version__
from twinlens.api import browsers, problems
from twinlens.api.accepting import rates
from twinlens.api.access import checks
from twinlens.api.routes import json_body
from twinlens.api.routes.bulk import bulk
from twinlens.api.routes.health import docs, health
from twinlens.api.routes.images import ImageIdConverter, images
from twinlens.api.routes.jobs import jobs
from twinlens.api.routes.libraries import libraries
from twinlens.api.routes.models import models
from twinlens.api.routes.search import search
from twinlens.api.routes.stats import stats
from twinlens.api.services import EXTENSION
from twinlens.shared.answers import (
    Deletion,
    ImageVectors,
    JobEvent,
    LibraryPlan,
    MissingQuery,
    ProblemDetails,
    ReconcileQuery,
)
from twinlens.shared.errors import PayloadTooLarge, UnsupportedMedia
from twinlens.shared.log import request_id
from twinlens.shared.messages import Description
from twinlens.shared.queries import CompareQuery, DuplicatesQuery, SearchQuery

if TYPE_CHECKING:
    from twinlens.api.services import Services
    from twinlens.shared.settings import Settings

log = logging.getLogger(__name__)

# What a `webhook` is sent.
_JOB_ENDED = {
    "summary": "A job has ended",
    "description": "Signed, as of Standard Webhooks, in the headers webhook-id, webhook-timestamp"
    " and webhook-signature.",
    "operationId": "jobEnded",
    "requestBody": {"required": True, "content": json_body("JobEvent")},
    "responses": {
        "2XX": {"description": "Taken"},
        "410": {"description": "No more of it is wanted: not sent again"},
        "default": {"description": "Not taken: sent again, later"},
    },
}
_REQUEST_ID = re.compile("[A-Za-z0-9._-]{1,128}")


def create_app(settings: Settings, services: Services) -> Flask:
    """Returns the WSGI application. Nothing is connected yet.

    Args:
        settings: Limits of requests.
        services: What the routes work with.
    """
    app = OpenAPI(
        __name__,
        info=Info(title="Twinlens", version=__version__, description="Self-hosted image search"),
        # Every operation has a `default` answer, the problem: flask-openapi adds none of its own.
        validation_error_status="default",
        validation_error_model=ProblemDetails,
        validation_error_callback=problems.refuse_parameters,
        doc_ui=False,
        static_folder=None,
        security_schemes={checks.SCHEME: checks.KEY_SCHEME},
        openapi_extensions={"webhooks": {"jobEnded": {"post": _JOB_ENDED}}},
    )
    app.openapi_version = "3.1.0"
    # Werkzeug refuses a body of unknown length that reaches its limit, though it may end there.
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes + 1
    app.url_map.converters["image_id"] = ImageIdConverter
    app.extensions[EXTENSION] = services
    _identify_requests(app)
    browsers.install(app, settings)
    _refuse_unknown_methods(app)
    checks.identify(app, settings)
    rates.install(app, settings)
    checks.hold_to_scopes(app, services.jobs)
    _refuse_large_bodies(app, settings.max_body_bytes)
    _refuse_encoded_bodies(app)
    problems.install(app)
    for routes in (images, bulk, search, jobs, models, libraries, stats, health):
        app.register_api(routes)
    _add_schemas(app)
    app.register_blueprint(docs)
    return app


def _identify_requests(app: Flask) -> None:
    """Gives each request an id, which goes with it into every log line and task."""

    @app.before_request
    def begin() -> None:
        given = request.headers.get("X-Request-ID", "")
        request_id.set(given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex)
        g.began_at = time.perf_counter()

    @app.after_request
    def end(response: Response) -> Response:
        response.headers["X-Request-ID"] = request_id.get()
        took_ms = (time.perf_counter() - g.began_at) * 1000
        log.info("%s %s %d %.1f ms", request.method, request.path, response.status_code, took_ms)
        return response


def _refuse_unknown_methods(app: Flask) -> None:
    """Refuses what no route answers (404, 405) before anything else is looked at."""

    @app.before_request
    def refuse() -> None:
        if request.routing_exception is not None:
            app.raise_routing_exception(request)


def _refuse_large_bodies(app: Flask, max_bytes: int) -> None:
    """Refuses a body by its announced length; one without a length is cut off while it is read."""

    @app.before_request
    def refuse() -> None:
        if (request.content_length or 0) > max_bytes:
            raise PayloadTooLarge(f"The request has more than {max_bytes} bytes.")


def _refuse_encoded_bodies(app: Flask) -> None:
    """Refuses a body that would have to be unpacked before it is read."""

    @app.before_request
    def refuse() -> Response | None:
        codings = request.headers.get("Content-Encoding", "").split(",")
        if {coding.strip().lower() for coding in codings} <= {"", "identity"}:
            return None
        error = UnsupportedMedia("Send the body as it is, without a Content-Encoding.")
        answer = problems.answer_problem(error.to_problem())
        answer.headers["Accept-Encoding"] = "identity"  # RFC 9110, 15.5.16
        return answer


def _add_schemas(app: OpenAPI) -> None:
    """Adds the schemas that the document names, but that no view takes as its body."""
    template = "#/components/schemas/{model}"
    for model in (
        CompareQuery,
        Deletion,
        Description,
        DuplicatesQuery,
        ImageVectors,
        JobEvent,
        LibraryPlan,
        MissingQuery,
        ReconcileQuery,
        SearchQuery,
    ):
        schema = model.model_json_schema(ref_template=template)
        app.components_schemas |= schema.pop("$defs", {})
        app.components_schemas[model.__name__] = schema
