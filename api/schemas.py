"""Request and answer types. The OpenAPI document is made from them."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from twinlens.shared.errors import FieldError, Problem
from twinlens.shared.jobs import Job, JobKind, JobStatus
from twinlens.shared.libraries import FloatMetric, Index, Library
from twinlens.shared.messages import Duplicates, Image, Item, ModelSummary, Moment, SearchResult
from twinlens.shared.presence import WorkerStatus

MAX_PAGE = 1000
MAX_KEY_CHARS = 255

Outcome = Literal["succeeded", "skipped", "failed"]
LibraryName = Annotated[str, Field(description="the library; `default` exists from the start")]


class ProblemDetails(BaseModel):
    """RFC 9457 problem details: the body of every error."""

    type: str
    title: str
    status: int
    detail: str
    instance: str = Field(description="path of the request")
    request_id: str
    errors: list[FieldError] = Field(description="bad fields, where there are any")


# Parameters. What is not listed is refused, so that a misspelt parameter does not go unnoticed.


@functools.cache
def _schema_of(model: type[BaseModel], *args: Any, **kwargs: Any) -> dict[str, Any]:
    return BaseModel.model_json_schema.__func__(model, *args, **kwargs)  # type: ignore[attr-defined, no-any-return]


class Parameters(BaseModel):
    """Fields of a request that flask-openapi validates."""

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns the schema, made once: flask-openapi asks for it with each request (0.5 ms)."""
        return _schema_of(cls, *args, **kwargs)


class NoParameters(Parameters):
    """No query parameter is taken."""

    model_config = ConfigDict(extra="forbid")


class InLibrary(NoParameters):
    """Selects a library."""

    library: LibraryName = "default"


class UploadParameters(InLibrary):
    """Parameters of a single upload."""

    name: str | None = Field(None, description="file name, for raw bytes")


class PageParameters(NoParameters):
    """Selects a page of a list."""

    limit: int = Field(100, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(None, description="`next_cursor` of the page before")


class ImageListParameters(PageParameters):
    """Selects images."""

    library: LibraryName = "default"


class JobListParameters(PageParameters):
    """Selects jobs. Searches are listed with `kind=search` alone."""

    library: str | None = None
    kind: JobKind | None = None
    status: JobStatus | None = None


class ItemListParameters(PageParameters):
    """Selects outcomes."""

    outcome: Outcome | None = None


class ImagePath(Parameters):
    """Names an image."""

    image_id: str = Field(description="lower-case hex SHA-256 of the file")


class JobPath(Parameters):
    """Names a job."""

    job_id: str


class ModelPath(Parameters):
    """Names a model."""

    name: str


class WaitHeaders(Parameters):
    """Headers of a request that may wait for a job."""

    prefer: str | None = Field(
        None, alias="Prefer", description="`wait=S` (RFC 7240): answer when the job has ended"
    )


class EventHeaders(Parameters):
    """Headers of a stream of events."""

    last_event_id: str | None = Field(
        None, alias="Last-Event-ID", description="go on behind this event"
    )


class SubmitHeaders(WaitHeaders):
    """Headers of a request that makes a job."""

    idempotency_key: str | None = Field(
        None,
        alias="Idempotency-Key",
        min_length=1,
        max_length=MAX_KEY_CHARS,
        description="the same key with the same request gives the same job",
    )


class LibraryPath(Parameters):
    """Names a library. Milvus takes the name into its collections' names."""

    name: str = Field(pattern="^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)


class LibraryPlan(BaseModel):
    """What a library is to be."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    models: list[str] = Field(
        min_length=1, max_length=16, description="name@version, or name where there is one version"
    )
    weights: dict[str, Annotated[float, Field(ge=0, le=1000)]] = Field(
        default_factory=dict, description="weights in the fusion, by model name"
    )
    metric: FloatMetric | None = Field(
        None, description="of all float models; by default each has that of its card"
    )
    index: Index = Index()


class MissingQuery(BaseModel):
    """Names pictures that a client could upload."""

    model_config = ConfigDict(extra="forbid")

    ids: list[Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(
        max_length=MAX_PAGE, description="lower-case hex SHA-256 of the files"
    )


# Answers.


class Progress(BaseModel):
    """How many pictures of a job have which outcome. Other jobs count as one."""

    total: int | None = Field(description="null while the upload is still being read")
    received: int = Field(description="stored so far")
    succeeded: int
    skipped: int
    failed: int
    pictures_per_s: float | None = Field(
        None, description="of late; over the whole job once it has ended"
    )
    eta: Moment | None = Field(None, description="when it will have ended, at this rate")


class JobAnswer(BaseModel):
    """A job, as clients see it."""

    id: str
    kind: JobKind
    library: str
    status: JobStatus
    progress: Progress
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    expires_at: Moment | None
    result: SearchResult | Duplicates | Image | None = Field(
        description="of `search` the hits, of `duplicates` the groups, of `embed` the image;"
        " null in lists"
    )
    error: Problem | None
    links: dict[str, str]


class JobPage(BaseModel):
    """A page of jobs, newest first."""

    items: list[JobAnswer]
    next_cursor: str | None


class ItemPage(BaseModel):
    """A page of outcomes, in the order of the upload. It may be short: go on to a null cursor."""

    items: list[Item]
    next_cursor: str | None


class ImagePage(BaseModel):
    """A page of images, newest first."""

    items: list[Image]
    next_cursor: str | None


class MissingImages(BaseModel):
    """Which pictures are worth an upload."""

    missing: list[str] = Field(description="ids that were asked for, in their order")


class ModelPage(BaseModel):
    """A page of models, by name."""

    items: list[ModelSummary]
    next_cursor: str | None


class LibraryPage(BaseModel):
    """A page of libraries, by name."""

    items: list[Library]
    next_cursor: str | None


class LibraryStats(BaseModel):
    """How much a library holds."""

    images: int
    vectors: dict[str, int] | None = Field(description="by model; null if no worker answered")


class Backlog(BaseModel):
    """The pictures of bulk jobs that wait, and what it takes to embed them."""

    pictures: int = Field(description="stored, not yet done")
    pictures_per_s: float = Field(description="of all bulk processes, over the last minute")
    process_pictures_per_s: float | None = Field(
        description="of one process while it works; null before the first picture"
    )
    processes_for_an_hour: int | None = Field(
        description="bulk processes that would empty it in an hour"
    )


class Stats(BaseModel):
    """What is stored, what waits, and who works."""

    libraries: dict[str, LibraryStats]
    queues: dict[str, int] = Field(description="tasks that wait in Celery's queues")
    backlog: Backlog
    workers: list[WorkerStatus]


class Alive(BaseModel):
    """The process lives."""

    status: str = "alive"


class Ready(BaseModel):
    """Every part answers."""

    status: str = "ready"
    redis: str = "ok"
    milvus: str = "ok"
    workers: dict[str, int] = Field(description="live processes in each lane")


def progress_of(job: Job) -> Progress:
    """Returns a job's progress. One that is not counted in pictures is one whole."""
    if job.kind not in ("embed", "bulk", "reindex"):
        return Progress(
            total=1,
            received=1,
            succeeded=int(job.status == "succeeded"),
            skipped=0,
            failed=int(job.status == "failed"),
        )
    rate = job.pictures_per_s
    return Progress(
        total=job.total,
        received=job.received,
        succeeded=job.succeeded,
        skipped=job.skipped,
        failed=job.failed,
        pictures_per_s=rate and round(rate, 2),
        eta=_eta_of(job, rate),
    )


def _eta_of(job: Job, rate: float | None) -> Moment | None:
    """Goes by what the record says alone: an entity tag stands for one answer."""
    if job.total is None or job.counted_at is None or job.has_ended or not rate:
        return None
    return job.counted_at + timedelta(seconds=(job.total - job.n_counted) / rate)
