"""COCO annotation files become metadata."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinlens.api.reading.uploads import MAX_METADATA_BYTES, parse_metadata
from twinlens.cli.errors import CommandFailed
from twinlens.cli.upload.coco import read_coco

COCO: dict[str, Any] = {
    "info": {"year": 2017},
    "licenses": [],
    "images": [
        {"id": 7, "file_name": "000007.jpg", "width": 640},
        {"id": 8, "file_name": "000008.jpg"},
        {"id": 9, "file_name": "train/9.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 18, "bbox": [1, 2, 3, 4], "segmentation": [[0.5]]},
        {"id": 2, "image_id": 7, "category_id": 17},
        {"id": 3, "image_id": 7, "category_id": 18},
        {"id": 4, "image_id": 9, "category_id": 44},
        {"id": 5, "image_id": 12345, "category_id": 44},
    ],
    "categories": [
        {"id": 17, "name": "cat", "supercategory": "animal"},
        {"id": 18, "name": "dog", "supercategory": "animal"},
        {"id": 44, "name": "bottle"},
    ],
}


def write(folder: Path, coco: Any) -> Path:
    path = folder / "instances.json"
    path.write_text(coco if isinstance(coco, str) else json.dumps(coco), encoding="utf-8")
    return path


def test_categories_are_named_once_and_in_order(tmp_path: Path) -> None:
    by_path = read_coco(write(tmp_path, COCO))
    assert by_path.of(PurePosixPath("/photos/val2017.zip/val2017/000007.jpg")) == {
        "coco_id": 7,
        "categories": ["cat", "dog"],
        "supercategories": ["animal"],
    }
    assert by_path.of(PurePosixPath("000008.jpg")) == {"coco_id": 8}
    assert by_path.of(PurePosixPath("a/train/9.jpg")) == {"coco_id": 9, "categories": ["bottle"]}
    assert by_path.of(PurePosixPath("other/000009.jpg")) == {}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_skipped(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "marked.json"
    path.write_bytes(json.dumps(COCO).encode(encoding))
    assert read_coco(path).of(PurePosixPath("000008.jpg")) == {"coco_id": 8}


def test_a_supercategory_may_be_null(tmp_path: Path) -> None:
    categories = [category | {"supercategory": None} for category in COCO["categories"]]
    read = read_coco(write(tmp_path, COCO | {"categories": categories}))
    metadata = {"coco_id": 7, "categories": ["cat", "dog"]}
    assert read.of(PurePosixPath("000007.jpg")) == metadata


def test_annotations_of_no_image_are_counted(tmp_path: Path) -> None:
    assert "1 annotation of images that are not listed" in str(read_coco(write(tmp_path, COCO)))


def without(key: str, place: str | None = None) -> Any:
    coco = json.loads(json.dumps(COCO))
    del (coco if place is None else coco[place][0])[key]
    return coco


@pytest.mark.parametrize(
    ("coco", "words"),
    [
        (without("annotations"), "annotations: Field required"),
        (without("categories"), "categories: Field required"),
        (without("images"), "images: Field required"),
        (without("file_name", "images"), "images.0.file_name: Field required"),
        (without("category_id", "annotations"), "annotations.0.category_id: Field required"),
        (without("name", "categories"), "categories.0.name: Field required"),
        (COCO | {"images": {}}, "images: "),
        ([], "not a COCO file of instances"),
        ("{", "Invalid JSON"),
        ("", "Invalid JSON"),
        (COCO | {"categories": []}, "has the category 18, which its categories lack"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, coco: Any, words: str) -> None:
    path = write(tmp_path, coco)
    with pytest.raises(CommandFailed) as raised:
        read_coco(path)
    assert words in raised.value.message
    assert str(path) in raised.value.message


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="cannot be read: Is a directory"):
        read_coco(tmp_path)


ids = st.integers(0, 30)


@given(st.sets(ids, min_size=1), st.lists(st.tuples(ids, st.integers(0, 79)), max_size=100))
def test_each_picture_has_the_categories_that_were_seen_on_it(
    tmp_path_factory: pytest.TempPathFactory,
    image_ids: set[int],
    seen: list[tuple[int, int]],
) -> None:
    coco = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in image_ids],
        "annotations": [{"image_id": n, "category_id": category} for n, category in seen],
        "categories": [
            {"id": n, "name": f"thing {n}", "supercategory": f"kind {n % 7}"} for n in range(80)
        ],
    }
    by_path = read_coco(write(tmp_path_factory.mktemp("coco"), coco))
    for n in image_ids:
        metadata = by_path.of(PurePosixPath(f"{n}.jpg"))
        names = {f"thing {category}" for image_id, category in seen if image_id == n}
        kinds = {f"kind {category % 7}" for image_id, category in seen if image_id == n}
        assert metadata["coco_id"] == n
        assert metadata.get("categories", []) == sorted(names)
        assert metadata.get("supercategories", []) == sorted(kinds)
        # The service takes it as it is.
        text = json.dumps(metadata).encode()
        assert len(text) <= MAX_METADATA_BYTES
        assert parse_metadata(text) == metadata
