"""What the API and the workers say to each other, typed. The OpenAPI document shows the same."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    WithJsonSchema,
)

from twinlens.shared.errors import Problem
from twinlens.shared.names import clean_name, clean_text
from twinlens.shared.values import comparable

MAX_PAGE = 1000
# What a worker says of a part that is in order.
OK = "ok"
# A task that runs too long is ended by its worker, a moment later.
OVERDUE_S = 30.0

JobKind = Literal["embed", "bulk", "search", "reindex", "duplicates", "delete", "reconcile"]
JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
# Of the message that a job has ended, where one was asked for.
WebhookStatus = Literal["pending", "delivered", "failed"]
# Of a picture: embedded; there, but with another name or other metadata; there as it was sent.
Outcome = Literal["succeeded", "updated", "skipped", "failed"]
# What a worker takes: shared/queue.py.
Lane = Literal["search", "bulk"]

MetadataValue = str | bool | int | float | list[str]
Metadata = dict[str, MetadataValue]


def _clean(metadata: Metadata) -> Metadata:
    return {clean_text(key): _clean_value(value) for key, value in metadata.items()}


def _clean_value(value: MetadataValue) -> MetadataValue:
    if isinstance(value, str):
        return clean_text(value)
    return [clean_text(one) for one in value] if isinstance(value, list) else value


# As clients send them: their words are shown.
SentMetadata = Annotated[Metadata, AfterValidator(_clean)]

ImageId = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _to_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


Moment = Annotated[
    datetime,
    AfterValidator(_to_utc),
    PlainSerializer(lambda m: m.isoformat(timespec="milliseconds").replace("+00:00", "Z")),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


def now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


class Description(BaseModel):
    """What is said of a picture. What is not given stays as it is."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: Annotated[str, AfterValidator(clean_name)] | None = Field(None, min_length=1)
    metadata: SentMetadata | None = None

    def of(self, image: Image) -> Image:
        """Returns an image with this name and metadata."""
        given = {"name": self.name or image.name, "metadata": self.metadata}
        if self.metadata is None:
            del given["metadata"]
        return image.model_copy(update=given)

    def changes(self, image: Image) -> bool:
        """Tells if an image has another name or other metadata."""
        new = self.of(image)
        return new.name != image.name or _comparable(new.metadata) != _comparable(image.metadata)

    def then(self, later: Description) -> Description:
        """Returns what is said when more is said later: the last word on each counts."""
        return Description(
            name=later.name or self.name,
            metadata=self.metadata if later.metadata is None else later.metadata,
        )


def _comparable(metadata: Metadata) -> dict[str, object]:
    return {key: comparable(value) for key, value in metadata.items()}


class Image(BaseModel):
    """A picture of a library, as catalogued."""

    id: str = Field(description="lower-case hex SHA-256 of the file")
    name: str
    library: str
    width: int = Field(description="pixels, after EXIF orientation")
    height: int
    format: str = Field(description="media type, e.g. image/jpeg")
    bytes: int
    metadata: Metadata = Field(default_factory=dict)
    models: list[str] = Field(description="models that have embedded it, as name@version")
    added_at: Moment
    links: dict[str, str] = Field(default_factory=dict)


class CatalogEntry(BaseModel):
    """An image as stored in Redis, with what only the service needs."""

    image: Image
    added_by: str = Field(description="the item that added it, job:chunk:index")
    changed_by: str = Field("", description="the item that changed its name or metadata last")
    collections: set[str] = Field(
        default_factory=set, description="Milvus collections that have its embeddings"
    )
    # The record that was read, by which is told if somebody has changed it since.
    read_as: str = Field("", exclude=True)


class ManifestItem(BaseModel):
    """One line of a manifest: a picture that was accepted, or one refused on the way in."""

    name: str
    uri: str | None = Field(None, description="where a worker fetches the bytes, of a listing")
    image_id: str | None = None
    n_bytes: int = 0
    metadata: Metadata | None = Field(None, description="null where none were given")
    added_at: Moment | None = Field(None, description="of one that was catalogued before")
    error: Problem | None = None

    @property
    def description(self) -> Description:
        # Cleaned when it was accepted.
        return Description.model_construct(name=self.name or None, metadata=self.metadata)


class ManifestHead(BaseModel):
    """First line of each manifest file. With it, a job can be rebuilt from its files alone."""

    job_id: str
    kind: str = Field(description="what becomes of them: embed, bulk, reindex, delete or reconcile")
    library: str
    library_id: str = Field(default_factory=lambda fields: fields["library"])
    chunk: int
    is_last: bool
    created_at: Moment = Field(description="when the job was created")
    accepted_at: Moment = Field(default_factory=lambda fields: fields["created_at"])


class Item(BaseModel):
    """The outcome of one picture of a job."""

    name: str
    image_id: str | None
    outcome: Outcome
    error: Problem | None = None


class TaskResult(BaseModel):
    """What a task returns, of any length."""

    def __repr__(self) -> str:
        # Celery formats each result for its log; with 10 hits that took 0.4 ms.
        return f"<{type(self).__name__}>"


class ChunkItems(TaskResult, RootModel[list[Item]]):
    """The outcomes of a chunk's pictures, in the order of its manifest."""


class ModelSummary(BaseModel):
    """The public part of a model's card."""

    name: str
    version: str
    title: str
    dimension: int = Field(description="numbers in a float vector, bits in a hash")
    metric: Literal["L2", "IP", "COSINE", "HAMMING"]
    input: dict[str, int | float | str]
    weight: float = Field(description="weight in the fusion, unless the query names one")
    licence: str
    source: str
    sha256: str
    has_text: bool = Field(False, description="whether it can be searched with words")

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"


class WorkerStatus(BaseModel):
    """One worker process, as of its last heartbeat."""

    name: str = Field(description="lanes@host:pid")
    lanes: list[Lane]
    beat_at: float = Field(description="Unix time of the heartbeat, in seconds")
    milvus: str = Field(description="`ok`, or why it does not answer")
    probe: str = Field(
        OK, description="`ok`, or what its last probe of models and Milvus found to be wrong"
    )
    idle_s: float | None = Field(
        None, description="since its last task ended, as of the heartbeat; null before the first"
    )
    task_left_s: float | None = Field(
        None, description="that its running task may still take; null if it has none"
    )
    n_pictures: int = Field(description="number of pictures embedded since the process started")
    pictures_per_s: float = Field(description="over the last minute")
    tasks_per_s: float = Field(description="over the last minute")
    busy_s: float = Field(description="seconds spent on bulk tasks since the process started")

    @property
    def fault(self) -> str | None:
        """What is wrong with it, if anything."""
        if self.milvus != OK:
            return f"It cannot reach Milvus: {self.milvus}"
        if self.task_left_s is None:
            return None if self.probe == OK else self.probe
        # A task that runs tells more than the probe before it.
        if self.task_left_s < -OVERDUE_S:
            return f"Its task has run {-self.task_left_s:.0f} s longer than it may."
        return None


class Cursor(BaseModel):
    """A place in a list that is ordered by time, newest first: the last member that was shown."""

    score: float
    member: str

    def encode(self) -> str:
        return base64.urlsafe_b64encode(f"{self.score!r}:{self.member}".encode()).decode()

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Reads what `encode` wrote.

        Raises:
            ValueError: It did not come from `encode`.
        """
        score, _, member = base64.urlsafe_b64decode(text.encode("ascii")).decode().partition(":")
        return cls(score=float(score), member=member)
