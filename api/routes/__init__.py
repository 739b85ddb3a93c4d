"""The routes: each parses, queues or reads, and answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask_openapi.types import ResponseDict

_PROBLEM: dict[str, Any] = {
    "content": {
        "application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}
    }
}
DEFAULT_PROBLEM: ResponseDict = {
    "default": {"description": "Every error is a problem (RFC 9457)", **_PROBLEM}
}


def problems(*statuses: int) -> ResponseDict:
    """Returns the responses of the OpenAPI document for these errors."""
    return {status: dict(_PROBLEM) for status in statuses}


def binary(*media_types: str) -> dict[str, Any]:
    """Returns the content of the OpenAPI document for raw bytes of these types."""
    return {
        media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in media_types
    }


def form(required: str, **parts: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of the OpenAPI document for a multipart form."""
    schema = {"type": "object", "properties": parts, "required": [required]}
    return {"multipart/form-data": {"schema": schema}}
