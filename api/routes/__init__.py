"""The routes: each parses, queues or reads, and answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from twinlens.shared.messages import SentMetadata

if TYPE_CHECKING:
    from flask_openapi.types import ResponseDict

FILE: dict[str, Any] = {"type": "string", "format": "binary"}
METADATA = TypeAdapter(SentMetadata).json_schema()


def files(n_most: int | None = None) -> dict[str, Any]:
    """Returns the schema of the OpenAPI document for parts of one name: one, or more."""
    return {"type": "array", "items": FILE, "minItems": 1} | (
        {} if n_most is None else {"maxItems": n_most}
    )


def ref(name: str) -> dict[str, Any]:
    """Returns a reference to a schema of the OpenAPI document."""
    return {"$ref": f"#/components/schemas/{name}"}


_PROBLEM = {"content": {"application/problem+json": {"schema": ref("ProblemDetails")}}}
DEFAULT_PROBLEM: ResponseDict = {
    "default": {"description": "Every error is a problem (RFC 9457)", **_PROBLEM}
}


def problems(*statuses: int) -> ResponseDict:
    """Returns the responses of the OpenAPI document for these errors."""
    return {status: dict(_PROBLEM) for status in statuses}


def binary(*media_types: str) -> dict[str, Any]:
    """Returns the content of the OpenAPI document for raw bytes of these types."""
    return {media_type: {"schema": FILE} for media_type in media_types}


def stored(media_type: str) -> ResponseDict:
    """Returns the responses of the OpenAPI document for stored bytes of this type."""
    content = binary(media_type, "application/octet-stream")
    return {
        200: {"content": content},
        206: {"description": "The range that was asked for", "content": content},
        304: {"description": "Not changed"},
        **problems(404, 412, 416),
    }


def json_body(name: str) -> dict[str, Any]:
    """Returns the content of the OpenAPI document for a JSON body of this schema."""
    return {"application/json": {"schema": ref(name)}}


def form(required: str, **parts: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of the OpenAPI document for a multipart form."""
    schema = {
        "type": "object",
        "properties": parts,
        "required": [required],
        "additionalProperties": False,
    }
    return {"multipart/form-data": {"schema": schema}}
