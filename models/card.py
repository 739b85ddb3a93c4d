"""The card of a model: what it is, what it takes and gives, and how to know that it is right."""

from __future__ import annotations

import math
import re
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

import tomli_w
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from twinlens.models.calibration import Calibration
from twinlens.models.distances import Metric
from twinlens.shared.errors import BadCard

MAX_NAME_CHARS, MAX_VERSION_CHARS = 64, 32
# Of a text encoder's templates: where the words go. CLIP's own list has 80.
WORDS_PLACE = "{}"
MAX_TEMPLATES, MAX_TEMPLATE_CHARS = 100, 200
# Milvus takes letters, digits and underscores in a collection's name. Single separators only,
# so that two underscores can part name and version in it.
_NAME = re.compile("[A-Za-z][A-Za-z0-9]*([_-][A-Za-z0-9]+)*")
_VERSION = re.compile("[A-Za-z0-9]+([_-][A-Za-z0-9]+)*")
# A plain file name: a card from elsewhere must not reach outside its directory.
_FILE = r"^[A-Za-z0-9_][A-Za-z0-9._@-]*$"

_SHA256 = r"^[0-9a-f]{64}$"

_FileName = Annotated[str, StringConstraints(pattern=_FILE, max_length=128)]


def check_name(name: str) -> str:
    """Returns a model's name, if it can be one.

    Raises:
        ValueError: It cannot.
    """
    if len(name) > MAX_NAME_CHARS or not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be a model's name: give a letter, then letters and digits (A to Z, 0 "
            f"to 9) with single - or _ between them, {MAX_NAME_CHARS} characters at most"
        )
    return name


def check_version(version: str) -> str:
    """Returns a model's version, if it can be one.

    Raises:
        ValueError: It cannot.
    """
    if len(version) > MAX_VERSION_CHARS or not _VERSION.fullmatch(version):
        raise ValueError(
            f"{version!r} cannot be a model's version: give letters and digits (A to Z, 0 to 9) "
            f"with single - or _ between them, {MAX_VERSION_CHARS} characters at most"
        )
    return version


def check_text(text: str) -> str:
    """Returns what a card says in words, if it says something.

    Raises:
        ValueError: It does not.
    """
    if not text.strip():
        raise ValueError("it is empty: give some words")
    return text


def check_template(template: str) -> str:
    """Returns what words are put into before they are embedded, if there is one place for them.

    Raises:
        ValueError: There is not.
    """
    if template.count(WORDS_PLACE) != 1 or len(template) > MAX_TEMPLATE_CHARS:
        raise ValueError(
            f"{template!r} is no template: write {WORDS_PLACE} once, where the words go, in "
            f"{MAX_TEMPLATE_CHARS} characters at most, as in 'a photo of {WORDS_PLACE}'"
        )
    return template


def collection_key(name: str, version: str) -> str:
    """Returns name and version as part of a Milvus collection's name: efficientnet_lite0__1."""
    return f"{name}__{version}".replace("-", "_")


_Text = Annotated[str, AfterValidator(check_text)]


class OutputKind(StrEnum):
    """What an embedding is made of: float32 numbers, or bits packed in bytes."""

    FLOAT32 = "float32"
    BITS = "bits"


class Fit(StrEnum):
    """How a picture gets the model's shape: SQUASH keeps all of it, CROP its proportions."""

    SQUASH = "squash"
    CROP = "crop"


class Resample(StrEnum):
    """Filters of Pillow's resize."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


class Offset(StrEnum):
    """Where the middle begins if an odd number of pixels is cut off: at the half, rounded or not.

    torchvision rounds it to the even number, transformers goes down.
    """

    ROUND = "round"
    FLOOR = "floor"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Resizing(_Strict):
    """How a picture becomes as large as a model's.

    `crop_fraction` is the part of the shorter side that CROP keeps, from the middle. Frameworks
    resize to whole pixels first, and cut out the middle of those: CROP makes the shorter side
    `resized_px` long, SQUASH both.
    """

    resample: Resample = Resample.BICUBIC
    fit: Fit = Fit.SQUASH
    crop_fraction: float = Field(default=1.0, gt=0.0, le=1.0)
    resized_px: int | None = Field(default=None, ge=8, le=8192)
    offset: Offset = Offset.ROUND

    @model_validator(mode="after")
    def _crop_only_when_cropping(self) -> Self:
        if self.crop_fraction == 1.0:
            return self
        if self.fit is Fit.SQUASH:
            raise ValueError("crop_fraction is for fit = 'crop'; a squashed picture is kept whole")
        if self.resized_px is not None:
            raise ValueError(
                "crop_fraction (--crop) and resized_px (--resize-to) both say what is cut off: "
                "give one"
            )
        return self


class InputSpec(Resizing):
    """The pixels that a model takes: uint8 [height, width, 3], RGB."""

    width: int = Field(ge=8, le=4096)
    height: int = Field(ge=8, le=4096)

    @property
    def wanted_px(self) -> int:
        """How long the shorter side of the decoded picture must be so that no detail is lost."""
        return self.resized_px or math.ceil(max(self.width, self.height) / self.crop_fraction)

    @model_validator(mode="after")
    def _cut_out_of_more(self) -> Self:
        if self.resized_px is not None and self.resized_px < max(self.width, self.height):
            raise ValueError(
                f"a picture of {self.width} x {self.height} cannot be cut out of one that is "
                f"resized to {self.resized_px} pixels"
            )
        return self


class Golden(_Strict):
    """One known answer: the embedding of `golden/<picture>` beside the card.

    `embedding` is base64 of little-endian float16 for numbers, hexadecimal for bits.
    """

    picture: _FileName
    embedding: str


class TextSpec(_Strict):
    """A text encoder of the same space as the pictures': an ONNX graph and its tokenizer.

    The graph takes `input_ids` int64 [N, T], and `attention_mask` int64 [N, T] if it wants one;
    its only output, or the one that `output` names, is float32 [N, dimension].
    """

    file: _FileName
    sha256: str = Field(pattern=_SHA256)
    tokenizer: _FileName
    tokenizer_sha256: str = Field(pattern=_SHA256)
    output: str | None = None
    max_tokens: int = Field(default=77, ge=1, le=8192)
    templates: tuple[Annotated[str, AfterValidator(check_template)], ...] = Field(
        default=("{}",),
        min_length=1,
        max_length=MAX_TEMPLATES,
        description="what words are put into; the embeddings of all are averaged",
    )


class Pulled(_Strict):
    """Where a model was pulled from: the same files give the same model on any machine."""

    repository: str = Field(description="hf:OWNER/REPO, an address, or a folder's name")
    revision: str | None = Field(None, description="the commit")
    files: dict[str, Annotated[str, StringConstraints(pattern=_SHA256)]]


class ModelComparison(_Strict):
    """How a version compares with the one it was made from: both on one machine, in turn."""

    original: str = Field(description="name@version")
    speed_ratio: float = Field(gt=0, description="pictures per second, over the original's")
    mean_cosine: float | None = Field(None, description="null where the dimension differs")
    top10_agreement: float = Field(ge=0, le=1)
    bytes_per_vector: int = Field(ge=1)
    n_pictures: int = Field(ge=1, description="how many the figures are of")


class Original(_Strict):
    """The version that a model was made from, by the linear map at the end of its graph.

    So its embeddings can be computed from those of that version.
    """

    ref: str = Field(description="name@version")
    sha256: str = Field(pattern=_SHA256, description="of its ONNX file")


class Card(_Strict):
    """A model's card, as its TOML file gives it."""

    name: Annotated[str, AfterValidator(check_name)]
    version: Annotated[str, AfterValidator(check_version)]
    title: _Text
    file: _FileName
    sha256: str = Field(pattern=_SHA256)
    output: OutputKind
    dimension: int = Field(ge=1, le=32768, description="numbers, or bits")
    metric: Metric
    weight: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    min_cosine: float = Field(default=0.9999, gt=0.0, le=1.0)
    licence: _Text
    source: _Text
    input: InputSpec
    text: TextSpec | None = None
    pulled: Pulled | None = None
    linear_of: Original | None = None
    comparison: ModelComparison | None = None
    calibration: Calibration | None = None
    calibrated_on: str | None = Field(None, description="name of its photos' folder or library")
    golden: tuple[Golden, ...] = ()

    @property
    def ref(self) -> str:
        """The name of this version of this model: efficientnet-lite0@1."""
        return f"{self.name}@{self.version}"

    @property
    def key(self) -> str:
        """See `collection_key`."""
        return collection_key(self.name, self.version)

    @model_validator(mode="after")
    def _metric_fits_output(self) -> Self:
        is_bits = self.output is OutputKind.BITS
        if is_bits != (self.metric is Metric.HAMMING):
            raise ValueError("HAMMING is the metric of bits; L2, IP and COSINE are of float32")
        if is_bits and self.dimension % 8:
            raise ValueError("bits come in bytes: dimension must be a multiple of 8")
        if is_bits and self.text is not None:
            raise ValueError("a text encoder gives numbers, and this model's pictures are bits")
        return self


def dump_card(card: Card) -> str:
    """Returns a card as the text of its TOML file."""
    left_out = None if card.golden else {"golden"}
    return tomli_w.dumps(card.model_dump(mode="json", exclude_none=True, exclude=left_out))


def load_card(path: Path) -> Card:
    """Reads and checks a card.

    Raises:
        BadCard: The file cannot be read, is not TOML, or a field is missing, unknown or wrong;
            the detail names each field.
    """
    try:
        return parse_card(path.name, path.read_bytes())
    except OSError as error:
        raise BadCard(f"{path.name} cannot be read: {error.strerror}") from error


def parse_card(name: str, content: bytes) -> Card:
    """Returns a card from what its file holds.

    Raises:
        BadCard: As `load_card`; `name` is the file's.
    """
    try:
        return Card.model_validate(tomllib.loads(content.decode()))
    except UnicodeDecodeError as error:
        raise BadCard(f"{name} is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise BadCard(f"{name} is not TOML: {error}") from error
    except ValidationError as error:
        raise BadCard(f"{name}: {'; '.join(describe_faults(error))}") from error


def describe_faults(error: ValidationError) -> list[str]:
    """Says of each field what is wrong with it."""
    # pydantic puts "Value error, " before what a rule of ours says.
    said = [(fault["loc"], fault["msg"].removeprefix("Value error, ")) for fault in error.errors()]
    return [f"{'.'.join(map(str, place))}: {text}" if place else text for place, text in said]
