"""What the API and the workers say to each other, typed. The OpenAPI document shows the same."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from twinlens.shared.errors import ModelNotFound, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_K = 1000
MAX_TEXT_CHARS = 2000

MetadataValue = str | bool | int | float | list[str]
Metadata = dict[str, MetadataValue]


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
    """An image as stored in Redis, with what the service alone needs."""

    image: Image
    path: str = Field(description="key in the blob store")
    added_by: str = Field(description="the item that added it, job:chunk:index")


class ManifestItem(BaseModel):
    """One line of a manifest: a picture that was accepted, or one refused on the way in."""

    name: str
    uri: str | None = Field(None, description="where a worker fetches the bytes, of a listing")
    image_id: str | None = None
    n_bytes: int = 0
    metadata: Metadata = Field(default_factory=dict)
    error: Problem | None = None


class ManifestHead(BaseModel):
    """First line of each manifest file. With it, a job can be rebuilt from its files alone."""

    job_id: str
    kind: Literal["embed", "bulk"]
    library: str
    chunk: int
    is_last: bool
    created_at: Moment


class Item(BaseModel):
    """The outcome of one picture of a job."""

    name: str
    image_id: str | None
    outcome: Literal["succeeded", "skipped", "failed"]
    error: Problem | None = None


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
    has_text: bool = Field(False, description="it can be searched with words")

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"


class Library(BaseModel):
    """A named set of images that are searched together."""

    name: str
    models: list[str] = Field(description="as name@version; no name twice")
    weights: dict[str, float] = Field(
        default_factory=dict,
        description="weights in the fusion, by model; where there is none, the card's",
    )

    def choose(self, wanted: Iterable[str] | None = None) -> list[str]:
        """Returns the models that are wanted, as name@version; all by default.

        Args:
            wanted: Names, with or without version.

        Raises:
            ModelNotFound: One is not of this library.
        """
        if wanted is None:
            return self.models
        by_name = {ref.partition("@")[0]: ref for ref in self.models}
        known = by_name | {ref: ref for ref in self.models}
        for name in wanted:
            if name not in known:
                there = ", ".join(by_name) or "none yet"
                raise ModelNotFound(
                    f"Library {self.name!r} has no model {name!r}; it has: {there}."
                )
        return list(dict.fromkeys(known[name] for name in wanted))


class SearchQuery(BaseModel):
    """What to look for. Every field has a default."""

    model_config = ConfigDict(extra="forbid")

    library: str = "default"
    models: list[str] | None = Field(
        None, min_length=1, description="models to ask; all of the library's by default"
    )
    k: int = Field(10, ge=1, le=MAX_K, description="how many hits")
    image_id: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="search with a stored image"
    )
    text: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_TEXT_CHARS,
        description="search with words, under the models that have a text encoder",
    )
    rerank: Literal["neighbours", "none"] = Field(
        "neighbours",
        description="whether candidates that are near each other as well move up; the order of the"
        " hits is then not that of their scores. Not done for words",
    )


class ModelHit(BaseModel):
    rank: int = Field(description="place among the candidates under this model, from 1")
    distance: float = Field(description="as the model's metric defines it")
    score: float = Field(ge=0, le=1, description="similarity; larger is nearer")


class Hit(BaseModel):
    """An image found, with what each model says of it."""

    rank: int
    score: float
    image: Image
    models: dict[str, ModelHit]


class RankedImage(BaseModel):
    """One place in a single model's own ranking."""

    rank: int
    image_id: str
    distance: float


class Agreement(BaseModel):
    """How far the models' own rankings agree; null where there are fewer than two."""

    overlap_at_k: float | None
    rank_correlation: float | None


class SearchTiming(BaseModel):
    """Where the time went, in milliseconds."""

    queued: float
    decode: float
    embed: float
    search: float
    fuse: float
    rerank: float = 0.0
    total: float


class SearchResult(BaseModel):
    hits: list[Hit]
    by_model: dict[str, list[RankedImage]]
    agreement: Agreement
    timing_ms: SearchTiming


class Cursor(BaseModel):
    """A place in a list that is ordered by time, newest first: the last one that was shown."""

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
