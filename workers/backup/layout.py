"""What a backup is, as files. It can be read without Twinlens.

    DIR/
    ├── README.txt              says what this is
    ├── twinlens-backup.json    `BackupHead`: which contents count; written last, in one step
    ├── contents/ab/….json      `Contents`: models, libraries and their pages
    ├── records/ab/….jsonl      a page's images, one a line
    ├── vectors/ab/….npy        a page's vectors under one model
    ├── models/ab/…             ONNX files, tokenizers, cards and golden pictures
    └── pictures/ab/…           pictures as they were uploaded

A file in a folder is named by the SHA-256 of its bytes: so it is never changed, its name tells if
it is whole, and what the next backup has in common with this one is there already. A page ends
where an id says so, whatever comes before: where pictures come and go, only their pages change.
"""

from __future__ import annotations

import hashlib
import io
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from twinlens.shared.libraries import FloatMetric, Index, LibraryName
from twinlens.shared.messages import Image, ImageId, Moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from twinlens.shared.messages import CatalogEntry

FORMAT = 1
HEAD = "twinlens-backup.json"
README = "README.txt"

FileKind = Literal["contents", "records", "vectors", "models", "pictures"]
ENDINGS: dict[FileKind, str] = {
    "contents": ".json",
    "records": ".jsonl",
    "vectors": ".npy",
    "models": "",
    "pictures": "",
}
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

# One id in so many ends a page. Of 1,280 numbers each, the vectors of the longest page are 10 MB.
MEAN_PAGE_IMAGES = 1024
MAX_PAGE_IMAGES = 2000
# What is said of an image; the library's name, and links to the service, are not part of it.
_RECORD = {"library": True, "links": True}

README_TEXT = f"""\
A backup of Twinlens, an image search. Bring it back with `twinlens restore` and this folder.

{HEAD} is there once the backup is whole. It names a file in contents/, which
names all others. Each file in a folder is named by the SHA-256 of its bytes. In contents/, a page
of a library has `records`, JSON with one image a line, and `vectors`: for each model, a file of
NumPy whose rows are those of the images that name the model in their `models`, in the same order.
An image's file is pictures/, the first two letters of its id, and its id.
"""


class VectorFile(BaseModel):
    """A page's vectors under one model: [n_rows, dimension], of packed bits a byte for eight."""

    sha256: Sha256
    dtype: Literal["float32", "float16", "uint8"]
    n_rows: int


class Page(BaseModel):
    """Some of a library's images."""

    n_images: int
    ids: Sha256 = Field(description="SHA-256 of their ids, one after another")
    records: Sha256
    vectors: dict[str, VectorFile] = Field(description="by model, as name@version")


class SavedLibrary(BaseModel):
    """A library: the edition that was searched, and its images in the order they were added."""

    name: LibraryName
    models: list[str]
    metric: FloatMetric | None
    index: Index
    weights: dict[str, float]
    n_images: int
    pages: list[Page]


class SavedModel(BaseModel):
    """A model, and its files by name; its card ends in `.toml`."""

    sha256: Sha256 = Field(description="of its ONNX file, by its card")
    dimension: int
    files: dict[str, Sha256]


class Contents(BaseModel):
    """All that a backup has."""

    models: dict[str, SavedModel] = Field(description="by name@version")
    libraries: list[SavedLibrary]


class BackupHead(BaseModel):
    """Which contents count."""

    format: int
    written_at: Moment
    contents: Sha256


class _Record(Image):
    id: ImageId


def key_of(kind: FileKind, sha256: str) -> str:
    """Returns where a file lies, below the backup's folder."""
    return f"{kind}/{sha256[:2]}/{sha256}{ENDINGS[kind]}"


def digest(content: bytes) -> str:
    """Returns the name of a file with these bytes."""
    return hashlib.sha256(content).hexdigest()


def ends_page(image_id: str) -> bool:
    """Tells if the next image is of another page."""
    return int(image_id[:8], 16) % MEAN_PAGE_IMAGES == 0


def split_pages(entries: Iterable[CatalogEntry]) -> Iterator[list[CatalogEntry]]:
    """Cuts a library's images into pages."""
    page: list[CatalogEntry] = []
    for one in entries:
        page.append(one)
        if ends_page(one.image.id) or len(page) == MAX_PAGE_IMAGES:
            yield page
            page = []
    if page:
        yield page


def write_records(images: Iterable[Image]) -> bytes:
    """Returns images as JSON, one a line."""
    return b"".join(f"{one.model_dump_json(exclude=_RECORD)}\n".encode() for one in images)


def read_records(content: bytes, library: str) -> list[Image]:
    """Returns what `write_records` wrote, as images of a library of this name.

    Raises:
        ValueError: It is something else.
    """
    lines = map(json.loads, content.splitlines())
    return [_Record.model_validate(line | {"library": library}) for line in lines]


def write_vectors(rows: Sequence[Any]) -> bytes:
    """Returns rows of one length as a file of NumPy; the same rows are always the same bytes."""
    buffer = io.BytesIO()
    np.save(buffer, np.stack(rows), allow_pickle=False)
    return buffer.getvalue()


def read_vectors(content: bytes) -> Any:
    """Returns what `write_vectors` wrote: [n, width]."""
    return np.load(io.BytesIO(content), allow_pickle=False)
