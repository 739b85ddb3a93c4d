"""Labelled pictures for `evaluate`: of a CSV of `file` and `label`, or of a COCO file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.cli.errors import CommandFailed
from twinlens.cli.output import say
from twinlens.cli.upload.coco import read_coco
from twinlens.cli.upload.files import find_pictures
from twinlens.cli.words import counted
from twinlens.models.workbench.labels import Labelled, check_labels

if TYPE_CHECKING:
    from pathlib import Path

    from twinlens.shared.messages import Metadata


def read_coco_labels(coco: Path, folder: Path) -> list[Labelled]:
    """Finds the pictures of a folder that a COCO file has categories of, which are their labels.

    Says how many have none, and how many of the file's images are not there.

    Raises:
        CommandFailed: The file is none of COCO's, the folder has no picture, or none that is named.
        BadInput: No two pictures have a category in common, or they all have the same alone.
    """
    annotations = read_coco(coco)
    files = find_pictures(folder)
    for path in files:
        annotations.note(path)
    if not annotations.are_of_some:
        raise CommandFailed(
            f"none of the {counted(len(files), 'picture')} in {folder} is named in {coco}: name the"
            " folder that its pictures lie in"
        )
    pictures = [_labelled(path, annotations.take(path)) for path in files]
    labelled = [picture for picture in pictures if picture.labels]
    say(str(annotations))
    if len(labelled) < len(pictures):
        left_out = counted(len(pictures) - len(labelled), "picture")
        say(f"{left_out} left out: nothing is annotated on them")
    check_labels(coco, labelled)
    return labelled


def _labelled(path: Path, metadata: Metadata) -> Labelled:
    categories = metadata.get("categories")
    label, *also = map(str, categories) if isinstance(categories, list) else [""]
    return Labelled(path, label, also=tuple(also))
