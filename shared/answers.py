"""What the HTTP interface accepts and returns as JSON, besides what `messages` has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from twinlens.shared.errors import FieldError, Problem
from twinlens.shared.libraries import FloatMetric, Index, Library
from twinlens.shared.messages import (
    MAX_PAGE,
    Description,
    Image,
    ImageId,
    Item,
    JobKind,
    JobStatus,
    ModelSummary,
    Moment,
    TaskResult,
    WebhookStatus,
    WorkerStatus,
)
from twinlens.shared.queries import Duplicates, SearchResult


class ProblemDetails(BaseModel):
    """RFC 9457 problem details: the body of every error."""

    type: str
    title: str
    status: int
    detail: str
    instance: str = Field(description="path of the request")
    request_id: str
    errors: list[FieldError] = Field(description="bad fields, where there are any")


class LibraryPlan(BaseModel):
    """What a library should be."""

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
    described: dict[ImageId, Description] = Field(
        default_factory=dict,
        max_length=MAX_PAGE,
        description="name and metadata that images are to have, by id",
        json_schema_extra={"additionalProperties": False},
    )


class Deletion(BaseModel):
    """Which images are to be deleted: `ids`, or those that a `filter` is true of."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"oneOf": [{"required": ["ids"]}, {"required": ["filter"]}]},
    )

    # Without null, and without a default that a client could take for something to send.
    ids: list[ImageId] = Field(default_factory=list, min_length=1, max_length=MAX_PAGE)
    filter: str = Field(default_factory=str, min_length=1, description="as of searches")
    all: bool = Field(False, description="whether the filter may be true of more than 1,000 images")


class ReconcileQuery(BaseModel):
    """Which libraries are compared, and what becomes of differences."""

    model_config = ConfigDict(extra="forbid")

    library: str | None = Field(None, description="its name; null: all libraries")
    check: bool = Field(False, description="whether differences are only told")
    remove_orphans: bool = Field(
        False, description="whether bytes go that nothing names, and that are older than a day"
    )


DifferenceKind = Literal[
    "not_catalogued",
    "not_embedded",
    "no_content",
    "half_removed",
    "stray_vectors",
    "orphans",
]


class Difference(BaseModel):
    """Images of which one store says other than another."""

    count: int = 0
    repaired: int = Field(0, description="at once")
    queued: int = Field(0, description="to be embedded; the job's progress tells what became of it")
    examples: list[str] = Field(default_factory=list, description="the first names, or ids")


class Reconciliation(TaskResult):
    """What a library's stores said of it, and what was done."""

    check: bool = Field(description="whether nothing was to be changed")
    compared: int = Field(description="images that a store has, or had")
    differences: dict[DifferenceKind, Difference] = Field(
        description="`not_catalogued`: accepted and stored, but its record is lost;"
        " `not_embedded`: catalogued, but Milvus lacks embeddings; `no_content`: catalogued, but"
        " its bytes are lost, and nothing but posting it again brings them back; `half_removed`:"
        " removed, but not from every store; `stray_vectors`: embeddings of what is nowhere else;"
        " `orphans`: bytes that nothing names"
    )


class Progress(BaseModel):
    """How many pictures of a job have each outcome. A job not counted in pictures counts as one."""

    compared: int = Field(0, description="images that a `reconcile` job has compared so far")
    total: int | None = Field(description="null while the upload is still being read")
    received: int = Field(description="stored so far")
    succeeded: int
    updated: int = Field(0, description="there before, with another name or other metadata")
    skipped: int = Field(description="there before, as they were sent")
    failed: int
    passed_over: int = Field(
        0, description="files of archives that are no pictures by their names; not in the total"
    )
    pictures_per_s: float | None = Field(
        None, description="recent rate; over the whole job once it has ended"
    )
    eta: Moment | None = Field(None, description="when it will end at this rate")


class WebhookAnswer(BaseModel):
    """Who is told that a job has ended, and how far that has come."""

    url: str
    status: WebhookStatus = Field(description="`failed`: it is not tried again")
    attempts: int = Field(description="how often it was tried")
    last_error: str | None = Field(description="why the last attempt failed, of those that did")
    next_attempt_at: Moment | None = Field(description="null until the job has ended")


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
    deadline_at: Moment | None = Field(None, description="when it fails, if it is not done")
    result: SearchResult | Duplicates | Reconciliation | Image | None = Field(
        description="of `search` the hits, of `duplicates` the groups, of `reconcile` the"
        " differences, of `embed` the image; null in lists"
    )
    error: Problem | None
    webhook: WebhookAnswer | None = Field(None, description="null where nobody wants to be told")
    links: dict[str, str]


class JobEvent(BaseModel):
    """What a webhook is told, as of Standard Webhooks."""

    type: Literal["job.succeeded", "job.failed", "job.cancelled"]
    timestamp: Moment = Field(description="when the job ended")
    data: JobAnswer = Field(description="the job as in lists: its result is null")


class JobPage(BaseModel):
    """A page of jobs, newest first. It may be short, or empty: go on to a null cursor."""

    items: list[JobAnswer]
    next_cursor: str | None


class ItemPage(BaseModel):
    """A page of outcomes, in the order of the upload. It may be short: go on to a null cursor."""

    items: list[Item]
    next_cursor: str | None


class ImagePage(BaseModel):
    """A page of images, by time. With a filter it may be short: go on to a null cursor."""

    items: list[Image]
    next_cursor: str | None


class ImageCount(BaseModel):
    """How many images there are."""

    count: int


class Vector(BaseModel):
    """What a model makes of an image."""

    model: str = Field(description="name@version")
    metric: Literal["L2", "IP", "COSINE", "HAMMING"]
    dtype: Literal["float32", "uint8"] = Field(
        description="`uint8`: of a hash, eight bits each, the first bit being the highest"
    )
    values: list[int] | list[float]


class ImageVectors(BaseModel):
    """What each model makes of an image. A model that has not embedded it is left out."""

    items: list[Vector]


class MissingImages(BaseModel):
    """Which pictures are worth uploading."""

    missing: list[str] = Field(description="ids that were asked for, in their order")
    changed: list[str] = Field(
        description="ids of images that are there, but not as they were described"
    )


class ModelPage(BaseModel):
    """A page of models, by name."""

    items: list[ModelSummary]
    next_cursor: str | None


class LibraryAnswer(Library):
    """A library, as clients see it."""

    missing_models: list[str] = Field(
        default_factory=list,
        description="of the models of its editions, those that no worker has: without them it"
        " neither is searched nor takes pictures",
    )


class LibraryPage(BaseModel):
    """A page of libraries, by name."""

    items: list[LibraryAnswer]
    next_cursor: str | None


class LibraryStats(BaseModel):
    """How much a library holds."""

    images: int
    vectors: dict[str, int] | None = Field(description="by model; null if no worker answered")


class Backlog(BaseModel):
    """The waiting pictures of bulk jobs, and what it takes to embed them."""

    pictures: int = Field(description="stored, not yet done")
    pictures_per_s: float = Field(description="of all bulk processes, over the last minute")
    process_pictures_per_s: float | None = Field(
        description="of one process while it works; null before the first picture"
    )
    processes_for_an_hour: int | None = Field(
        description="number of bulk processes that would empty it in an hour"
    )


class WebhookStats(BaseModel):
    """How many webhooks there are, and were."""

    pending: int = Field(description="of jobs that have ended")
    delivered: int
    retried: int = Field(description="attempts that failed, and are made again")
    failed: int = Field(description="given up")


class Stats(BaseModel):
    """What is stored, what is waiting, and which workers there are."""

    libraries: dict[str, LibraryStats]
    queues: dict[str, int] = Field(description="tasks that wait in Celery's queues")
    backlog: Backlog
    rescues: dict[str, int] = Field(
        description="how often work was brought back after it was lost, by kind of job"
    )
    webhooks: WebhookStats
    workers: list[WorkerStatus]


class Alive(BaseModel):
    """The process is alive."""

    status: str = "alive"


class Ready(BaseModel):
    """Every part responds, and a library can be searched."""

    status: str = "ready"
    redis: str = "ok"
    milvus: str = "ok"
    workers: dict[str, int] = Field(description="live processes in each lane")
    missing_models: dict[str, list[str]] = Field(
        description="models that no worker has, by each library that names them"
    )
    lacks: dict[str, str] = Field(
        description="what is wrong with libraries that lack models or embeddings, and what to do"
    )
    faults: dict[str, str] = Field(
        description="what is wrong with single worker processes, by name; others of the lane work"
    )
