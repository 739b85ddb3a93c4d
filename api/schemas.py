"""What requests may say in path, query and headers. The OpenAPI document is made from these."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from twinlens.shared.libraries import LibraryName
from twinlens.shared.messages import MAX_PAGE, JobKind, JobStatus, Outcome

MAX_KEY_CHARS = 255
MAX_WEBHOOK_CHARS = 2048
MAX_DEADLINE_S = 30 * 86_400

InQuery = Annotated[str, Field(description="the library; `default` exists from the start")]


# Parameters. What is not listed is refused, so that a misspelt parameter does not go unnoticed.


class Parameters(BaseModel):
    """Fields of a request that flask-openapi validates. The title says where they are."""

    @classmethod
    @functools.cache
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # a cache is a function
        """Returns the schema, made once: flask-openapi asks for it with each request (0.5 ms).

        Without null: a parameter may be left out, but nothing that is sent is null.
        """
        schema = super().model_json_schema(*args, **kwargs)
        for name, field in schema.get("properties", {}).items():
            kinds = [one for one in field.get("anyOf", []) if one != {"type": "null"}]
            if len(kinds) == 1:
                del field["anyOf"]
                schema["properties"][name] = kinds[0] | field
        return schema


class NoParameters(Parameters):
    """Accepts no query parameters."""

    model_config = ConfigDict(extra="forbid", title="query")


class InLibrary(NoParameters):
    """Selects a library."""

    library: InQuery = "default"


class WebhookParameters(NoParameters):
    """Parameters of whatever makes a job."""

    webhook: str | None = Field(
        None,
        max_length=MAX_WEBHOOK_CHARS,
        description="an https: URL that is told when the job has ended, by a signed POST",
        json_schema_extra={"format": "uri"},
    )


class JobParameters(WebhookParameters):
    """Parameters of whatever makes a job that may be given up."""

    deadline_s: int | None = Field(
        None,
        ge=1,
        le=MAX_DEADLINE_S,
        description="seconds from now, after which the job fails if it is not done: what of it has"
        " not begun never begins, and what is done stays",
    )


class JobInLibrary(JobParameters, InLibrary):
    """Parameters of whatever makes a job in a library."""


class UploadParameters(JobInLibrary):
    """Parameters of a single upload."""

    name: str | None = Field(None, description="file name of a picture that is sent as raw bytes")


class PageParameters(NoParameters):
    """Selects a page of a list."""

    limit: int = Field(100, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(None, description="`next_cursor` of the page before")


FilterText = Annotated[
    str | None, Field(description="only images that it is true of, as of searches")
]


class ImageListParameters(PageParameters):
    """Selects images."""

    library: InQuery = "default"
    filter: FilterText = None
    sort: Literal["-added_at", "added_at"] = Field(
        "-added_at", description="`-added_at`: the newest first; `added_at`: the oldest first"
    )


class VectorParameters(InLibrary):
    """Selects an image's vectors."""

    model: str | None = Field(None, description="one model alone, by name or name@version")


class ImageCountParameters(InLibrary):
    """Selects images that are counted."""

    filter: FilterText = None


class JobListParameters(PageParameters):
    """Selects jobs. Searches are listed only with `kind=search`."""

    library: str | None = None
    kind: JobKind | None = None
    status: JobStatus | None = None


class ItemListParameters(PageParameters):
    """Selects outcomes."""

    outcome: Outcome | None = None


class PathParameters(Parameters):
    """Names what is asked for."""

    model_config = ConfigDict(title="path")


class Headers(Parameters):
    """Says how it is to be answered."""

    model_config = ConfigDict(title="header")


class ImagePath(PathParameters):
    """Names an image."""

    image_id: str = Field(description="lower-case hex SHA-256 of the file")


class JobPath(PathParameters):
    """Names a job."""

    job_id: str


class ModelPath(PathParameters):
    """Names a model."""

    name: str


class WaitHeaders(Headers):
    """Headers of a request that may wait for a job."""

    prefer: str | None = Field(
        None, alias="Prefer", description="`wait=S` (RFC 7240): answer when the job has ended"
    )


class EventHeaders(Headers):
    """Headers of a stream of events."""

    last_event_id: str | None = Field(
        None,
        alias="Last-Event-ID",
        pattern=r"^([0-9]{1,19}-[0-9]{1,9}(\.[0-9]{1,9})?)?$",
        description="continue after this event; empty: from the first on",
    )


class KeyHeaders(Headers):
    """Headers of a request that may be repeated."""

    idempotency_key: str | None = Field(
        None,
        alias="Idempotency-Key",
        min_length=1,
        max_length=MAX_KEY_CHARS,
        description="the same key with the same request gives the same job",
    )


class SubmitHeaders(WaitHeaders, KeyHeaders):
    """Headers of a request that creates a job."""


class LibraryPath(PathParameters):
    """Names a library."""

    name: LibraryName
