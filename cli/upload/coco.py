"""COCO annotation files: what is on each picture, as its metadata.

Source:
    Format: https://cocodataset.org/#format-data, "Object Detection".
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from twinlens.cli.errors import CommandFailed
from twinlens.cli.files import read_json
from twinlens.cli.upload.annotations import Annotations

if TYPE_CHECKING:
    from pathlib import Path

    from twinlens.shared.messages import Metadata


# Of each, what we need. With slots: there are 860,000 annotations of train2017.
@dataclass(slots=True)
class _Image:
    id: int
    file_name: str


@dataclass(slots=True)
class _Annotation:
    image_id: int
    category_id: int


@dataclass(slots=True)
class _Category:
    id: int
    name: str
    supercategory: str | None = None


@dataclass(slots=True)
class _Instances:
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


_INSTANCES = TypeAdapter(_Instances)


def read_coco(path: Path) -> Annotations:
    """Reads a COCO file of instances, and keeps only the metadata of each picture.

    Raises:
        CommandFailed: It cannot be read, or is not such a file.
    """
    try:
        coco = _INSTANCES.validate_json(read_json(path))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        reason = f"{place}: {first['msg']}" if place else first["msg"]
        raise CommandFailed(
            f"{path} is not a COCO file of instances ({reason}); it needs images (id, file_name),"
            " annotations (image_id, category_id) and categories (id, name)"
        ) from None
    ids = {image.id for image in coco.images}
    n_stray = sum(annotation.image_id not in ids for annotation in coco.annotations)
    return Annotations(_metadata_of(coco, path), n_stray)


def _metadata_of(coco: _Instances, path: Path) -> list[tuple[str, Metadata]]:
    categories = {category.id: category for category in coco.categories}
    seen: defaultdict[int, set[int]] = defaultdict(set)
    for annotation in coco.annotations:
        if annotation.category_id not in categories:
            raise CommandFailed(
                f"{path} is incomplete: an annotation of image {annotation.image_id} has the"
                f" category {annotation.category_id}, which its categories lack"
            )
        seen[annotation.image_id].add(annotation.category_id)
    return [
        (image.file_name, _metadata(image.id, [categories[id_] for id_ in seen.get(image.id, ())]))
        for image in coco.images
    ]


def _metadata(image_id: int, categories: list[_Category]) -> Metadata:
    metadata: Metadata = {"coco_id": image_id}
    if categories:
        metadata["categories"] = sorted({category.name for category in categories})
    supercategories = {category.supercategory for category in categories if category.supercategory}
    if supercategories:
        metadata["supercategories"] = sorted(supercategories)
    return metadata
