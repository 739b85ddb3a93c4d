"""The models that are served."""

from __future__ import annotations

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from twinlens.api.access.checks import needs
from twinlens.api.answers import answer, page_by_name
from twinlens.api.routes import DEFAULT_PROBLEM, problems
from twinlens.api.schemas import ModelPath, NoParameters, PageParameters
from twinlens.api.services import current_services
from twinlens.shared.answers import (
    ModelPage,
)
from twinlens.shared.messages import ModelSummary

models = APIBlueprint(
    "models",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "models and libraries"}],
    abp_responses=DEFAULT_PROBLEM,
)


@models.get(
    "/models",
    operation_id="listModels",
    security=needs("read"),
    responses={200: ModelPage, **problems(422)},
)
def list_models(query: PageParameters) -> Response:
    """List the models, by name."""
    named = list(current_services().catalog.models().items())
    items, cursor = page_by_name(named, query.limit, query.cursor)
    return answer(ModelPage(items=items, next_cursor=cursor))


@models.get(
    "/models/<name>",
    operation_id="getModel",
    security=needs("read"),
    responses={200: ModelSummary, **problems(404)},
)
def get_model(path: ModelPath, query: NoParameters) -> Response:  # noqa: ARG001 (refuses any)
    """Get a model's card, by name@version or, where there is one version, by name."""
    return answer(current_services().catalog.model(path.name))
