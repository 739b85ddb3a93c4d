"""Searches, comparisons and near-duplicates: what is asked for, and what comes of it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from twinlens.shared.errors import BadFilter
from twinlens.shared.messages import Image, ImageId, Moment, TaskResult

MAX_K = 1000
MAX_OFFSET = 10_000
MAX_EXAMPLES = 16
MAX_TEXT_CHARS = 2000

Share = Annotated[float, Field(ge=0, le=1)]
# What a model may be asked with.
QueryPart = Literal["pictures", "words"]


def _readable(field: str) -> str:
    # The parser takes 50 ms to import, which clients that group nothing are spared.
    from twinlens.shared.filters.language import parse_field  # noqa: PLC0415

    try:
        parse_field(field)
    except BadFilter as error:
        raise ValueError(
            f"{error.detail} A field that is no plain name goes in backquotes."
        ) from None
    return field


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("there are no words in it: write some, or leave it out")
    return text.strip()


QueryText = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS), AfterValidator(_said)]


class SearchQuery(BaseModel):
    """What to look for. Every field has a default."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    library: str = "default"
    models: list[str] | None = Field(
        None, min_length=1, description="models to ask; all of the library's by default"
    )
    k: int = Field(10, ge=1, le=MAX_K, description="number of hits to return")
    offset: int = Field(0, ge=0, le=MAX_OFFSET, description="number of the best hits to skip")
    image_id: ImageId | None = Field(None, description="search with a stored image")
    positive: list[ImageId] = Field(
        default_factory=list,
        max_length=MAX_EXAMPLES,
        description="more stored images that show what to look for",
    )
    negative: list[ImageId] = Field(
        default_factory=list,
        max_length=MAX_EXAMPLES,
        description="stored images that show what to avoid",
    )
    text: QueryText | None = Field(
        None,
        description="words that say what to look for, alone or beside pictures, under the models"
        " that have a text encoder",
    )
    negative_text: QueryText | None = Field(
        None, description="words that say what to avoid, beside pictures or `text`"
    )
    region: tuple[Share, Share, Share, Share] | None = Field(
        None,
        description="the part of the one example that is looked for: left, top, right and bottom"
        " edge, from 0 to 1",
    )
    mode: Literal["similar", "near"] = Field(
        "similar", description="`near` looks for copies and edits of the one example"
    )
    fusion: Literal["calibrated", "weighted", "rrf", "max", "min"] = Field(
        "calibrated", description="how the models' distances become one score"
    )
    weights: dict[str, Annotated[float, Field(ge=0, le=1000)]] = Field(
        default_factory=dict,
        description="weights in the fusion, by model, in place of the library's; without them,"
        " models that understand the words of a query count at least as much as all others",
    )
    rerank: Literal["neighbours", "none"] = Field(
        "neighbours",
        description="whether candidates that are near each other as well move up; the order of the"
        " hits is then not that of their scores. Not done for words, nor in mode `near`",
    )
    verify: bool = Field(
        True,
        description="in mode `near`, whether the best are compared point by point, and proven"
        " copies moved up",
    )
    filter: str | None = Field(
        None,
        description='only images of which this is true, e.g. `city == "Paris" and width > 1000`:'
        " metadata, and what is the image's own (`name`, `width`, `height`, `format`, `bytes`,"
        " `added_at`)",
    )
    max_distance: dict[str, float] = Field(
        default_factory=dict,
        description="by model: only images at most so far; for IP and COSINE, at least so similar",
    )
    min_score: float = Field(0.0, ge=0, le=1, description="drop hits that score less")
    group_by: Annotated[str, AfterValidator(_readable)] | None = Field(
        None,
        min_length=1,
        description="keep only the best hit of each value of this field, which is written as in a"
        " filter",
    )
    exclude: list[ImageId] = Field(
        default_factory=list, max_length=MAX_K, description="images to leave out"
    )
    include_query: bool = Field(
        False, description="whether stored images that are examples may be found themselves"
    )

    @model_validator(mode="after")
    def _region_is_one(self) -> Self:
        if self.region is not None:
            left, top, right, bottom = self.region
            if left >= right or top >= bottom:
                raise ValueError(
                    "a region's left must be less than its right, its top less than its bottom"
                )
        return self

    @property
    def has_words(self) -> bool:
        """Whether words say what to look for, or what to avoid."""
        return self.text is not None or self.negative_text is not None

    @property
    def example_ids(self) -> list[str]:
        """Stored images that show what to look for."""
        return ([self.image_id] if self.image_id else []) + self.positive


class ModelHit(BaseModel):
    rank: int = Field(description="place among the candidates under this model, from 1")
    distance: float = Field(description="as the model's metric defines it")
    score: float = Field(
        ge=0,
        le=1,
        description="how rare such a near neighbour is under this model: the share of unrelated"
        " pictures that are farther. It means the same under every model",
    )


# Left, top, right and bottom edge, from 0 to 1.
Rectangle = tuple[Share, Share, Share, Share]


class CopyEvidence(BaseModel):
    """Whether points of the query and of an image lie alike, as only those of copies do."""

    verified: bool
    inliers: int = Field(0, description="number of points of both that lie alike")
    likeness: float = Field(
        0.0, description="correlation of the two where both show the same, laid on each other"
    )
    region: Rectangle | None = Field(
        None, description="the part of the image that the query shows, as in a query"
    )
    query_region: Rectangle | None = Field(
        None, description="the part of the query that shows the image"
    )
    turned: int = Field(
        0, ge=0, lt=360, description="degrees by which the query is turned anticlockwise"
    )
    mirrored: bool = Field(False, description="whether the query is the image's mirror image")
    transform: tuple[float, float, float, float, float, float] | None = Field(
        None,
        description="a, b, c, d, e, f: the query's (x, y) lies at (ax + by + c, dx + ey + f) of"
        " the image, each from 0 to 1 of its width or height",
    )

    @property
    def shown(self) -> float:
        """The share of the image that the query shows."""
        return _area_of(self.region)

    @property
    def filled(self) -> float:
        """The share of the query that shows the image."""
        return _area_of(self.query_region)

    @property
    def is_turned(self) -> bool:
        # Where there are few points, a part seems turned by some degrees.
        return _LEAST_TURN < self.turned < 360 - _LEAST_TURN


# In degrees.
_LEAST_TURN = 5
# Of an area: maps of small pictures are some hundredths of a side off.
WHOLE_SHARE = 0.9


def _area_of(region: Rectangle | None) -> float:
    if region is None:
        return 1.0
    left, top, right, bottom = region
    return (right - left) * (bottom - top)


class Hit(BaseModel):
    """An image found, with what each model says of it."""

    # pydantic has a method `copy`.
    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    rank: int
    score: float
    image: Image
    models: dict[str, ModelHit]
    evidence: CopyEvidence | None = Field(
        None,
        alias="copy",
        description="in mode `near`, whether it is a copy of the query; null where it was not"
        " verified in time, or is not among the best 32",
    )


class RankedImage(BaseModel):
    """One place in a single model's own ranking."""

    rank: int
    image_id: str
    distance: float


class Agreement(BaseModel):
    """How far the rankings of the models that count agree; null where there are not two."""

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
    verify: float = 0.0
    total: float


class SearchResult(TaskResult):
    hits: list[Hit]
    library_images: int = Field(description="how many images the library has; 0: it is empty")
    by_model: dict[str, list[RankedImage]]
    asked_with: dict[str, list[QueryPart]] = Field(
        default_factory=dict,
        description="by model, what of the query it was asked with: one without a text encoder"
        " takes part by the pictures alone, and has no part in what is words alone",
    )
    agreement: Agreement
    indexed_through: Moment = Field(
        description="every picture that was accepted up to then could be found"
    )
    timing_ms: SearchTiming


class Compared(BaseModel):
    """What one model says of two pictures."""

    distance: float = Field(description="as the model's metric defines it")
    score: float = Field(ge=0, le=1, description="as in a search")


class Comparison(BaseModel):
    """How near two pictures are."""

    score: float = Field(ge=0, le=1, description="of all models together, as in a search")
    models: dict[str, Compared]


class CompareQuery(BaseModel):
    """Which two pictures to compare: those that are not sent as `file`, as stored images."""

    model_config = ConfigDict(extra="forbid")

    library: str = "default"
    models: list[str] | None = Field(
        None, min_length=1, description="models to ask; all of the library's by default"
    )
    image_ids: list[ImageId] = Field(default_factory=list, max_length=2)


class DuplicatesQuery(BaseModel):
    """Which near-duplicates to look for."""

    model_config = ConfigDict(extra="forbid")

    library: str = "default"
    max_distance: int | None = Field(
        None, ge=0, le=32, description="bits in which the hashes of duplicates differ at most"
    )
    verify: bool = Field(
        False,
        description="whether copies that a hash does not see, crops and what is turned, mirrored or"
        " on a canvas, are looked for as well: each picture's nearest are compared with it point by"
        " point, which takes some 0.1 s a picture",
    )


DuplicateKind = Literal[
    "crop", "extended", "mirrored", "turned", "smaller", "larger", "recompressed"
]


class Duplicates(TaskResult):
    """The near-duplicates of a library."""

    n_images: int = Field(description="number of images that were compared")
    n_groups: int
    groups: list[list[str]] = Field(
        description="image ids: one, and those that are duplicates of it, the nearest hash first;"
        " the largest groups first, 1,000 at most"
    )
    confirmed_by: str | None = Field(description="the model that confirmed what the hash found")
    kinds: dict[str, list[DuplicateKind]] = Field(
        default_factory=dict,
        description="what each is of the first of its group, by image id: a `crop` shows a part of"
        " it, an `extended` one all of it and more",
    )
    evidence: dict[str, CopyEvidence] = Field(
        default_factory=dict,
        description="with `verify`, of those that are in a group for it: where it lies in the first"
        " of the group, which is the image, as the query is in a hit's `copy`",
    )
    n_unverified: int = Field(
        0, description="with `verify`, pairs that were too many to be compared: the least alike"
    )
