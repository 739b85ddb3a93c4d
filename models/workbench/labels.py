"""Labelled pictures: read from a CSV with the columns `file` and `label`, and how they relate."""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twinlens.models.errors import BadInput
from twinlens.shared.files import open_regular

FILE_COLUMN, LABEL_COLUMN = "file", "label"
SOURCE_COLUMN = "source"

PHOTOS = "photos"

# A picture is a query when two others have its label: with one, a single place decides all.
MIN_PICTURES = 3


@dataclass(frozen=True)
class Labelled:
    """A picture file, what it shows and where it is from; "" if that is not given.

    `also` has the other labels of a picture that shows several things.
    """

    path: Path
    label: str
    source: str = ""
    also: tuple[str, ...] = ()

    @property
    def labels(self) -> frozenset[str]:
        """All labels; none where the picture has none."""
        return frozenset((self.label, *self.also)) - {""}

    @property
    def title(self) -> str:
        """For people: `cat, dog`."""
        return ", ".join((self.label, *self.also))

    def is_related_to(self, other: Labelled) -> bool:
        """Whether they share a label."""
        return not self.labels.isdisjoint(other.labels)


class Relations:
    """How closely pictures are related: how many labels each two share."""

    def __init__(self, labels: Sequence[frozenset[str]]) -> None:
        """Takes the labels of each picture; one that has none is related to none."""
        self._labels = labels
        places = defaultdict[str, list[int]](list)
        for place, own in enumerate(labels):
            for label in own:
                places[label].append(place)
        self._places = {label: np.array(some) for label, some in places.items()}

    @property
    def is_graded(self) -> bool:
        """Whether pictures have several labels, so that some pairs share more than others."""
        return any(len(own) > 1 for own in self._labels)

    def queries(self) -> NDArray[np.intp]:
        """Returns the places of pictures with a label that MIN_PICTURES have."""
        common = self.common_labels()
        return np.flatnonzero([not own.isdisjoint(common) for own in self._labels])

    def common_labels(self) -> list[str]:
        """Returns the labels that MIN_PICTURES have, in alphabetical order."""
        return sorted(label for label, some in self._places.items() if len(some) >= MIN_PICTURES)

    def count_labels(self, places: NDArray[np.intp]) -> int:
        """Returns how many labels some of the pictures have."""
        return len(frozenset().union(*(self._labels[place] for place in places.tolist())))

    def grades(self, queries: NDArray[np.intp]) -> NDArray[np.intp]:
        """Returns how many labels each query shares with each picture, and 0 with itself.

        Args:
            queries: [m] places of pictures.

        Returns:
            [m, n].
        """
        grades = np.zeros((len(queries), len(self._labels)), np.intp)
        for row, place in zip(grades, queries.tolist(), strict=True):
            for label in self._labels[place]:
                row[self._places[label]] += 1
            row[place] = 0
        return grades

    def grades_of(self, label: str) -> NDArray[np.intp]:
        """Returns 1 for each picture that has the label, and 0 for the others, [n]."""
        grades = np.zeros(len(self._labels), np.intp)
        grades[self._places[label]] = 1
        return grades


def read_labels(path: Path) -> list[Labelled]:
    """Reads a CSV with the columns `file` and `label`, and `source` if it has one.

    A file is looked for beside the CSV, then in a folder `photos` there: by its name as it is, then
    with the separators of Windows, then in Unicode's normal form NFC on both sides. A repeated line
    counts once. A picture without a label is never a query, but one of those that are searched.

    Raises:
        BadInput: The CSV cannot be read, lacks a column or a name, names files that are not
            there, gives one file two labels, or its labels are too few to compare.
    """
    pictures: dict[Path, Labelled] = {}
    missing: list[str] = []
    stored = _StoredNames()
    for line, name, label, source in _read_lines(path):
        file = stored.find(path.parent, name)
        if file is None:
            missing.append(name)
        elif pictures.setdefault(file, Labelled(file, label, source)).label != label:
            raise BadInput(
                f"{path.name}, line {line}: {name} has the label {label!r} here and "
                f"{pictures[file].label!r} above; a picture has one label"
            )
    _check_complete(path, missing)
    check_labels(path, [*pictures.values()])
    return list(pictures.values())


def check_labels(path: Path, pictures: Sequence[Labelled]) -> None:
    """Makes sure that labels can tell whether a model finds the right pictures.

    Raises:
        BadInput: There are too few labels, or too few pictures of each.
    """
    n_pictures = Counter(label for picture in pictures for label in picture.labels)
    if len(n_pictures) < 2:
        raise BadInput(
            f"{path.name} has {len(n_pictures)} labels; at least 2 are needed to tell whether "
            "a model finds the right one"
        )
    label, n_most = n_pictures.most_common(1)[0]
    if n_most < MIN_PICTURES:
        raise BadInput(
            f"{path.name}: no label has {MIN_PICTURES} pictures, the most has {label!r} with "
            f"{n_most}; a picture is looked for by another of its label, so label more of each"
        )


def _read_lines(path: Path) -> list[tuple[int, str, str, str]]:
    """Line number, file, label and source of every line."""
    try:
        with open_regular(path) as file:
            text = file.read().decode("utf-8-sig")
        lines = csv.DictReader(io.StringIO(text, newline=""))
        names = [str(name).strip().lower() for name in lines.fieldnames or ()]
        lines.fieldnames = names
        _check_columns(path, names)
        return [(lines.line_num, *_read_line(path, lines.line_num, line)) for line in lines]
    except OSError as error:
        raise BadInput(f"{path.name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path.name} is not UTF-8 text; save it as 'CSV UTF-8'") from error
    except csv.Error as error:
        raise BadInput(f"{path.name} is not CSV: {error}") from error


def _read_line(path: Path, number: int, line: Mapping[str, str | None]) -> tuple[str, str, str]:
    columns = (FILE_COLUMN, LABEL_COLUMN, SOURCE_COLUMN)
    name, label, source = ((line.get(column) or "").strip() for column in columns)
    if not name:
        raise BadInput(f"{path.name}, line {number}: no file is named; fill or delete the line")
    return name, label, source


def _check_columns(path: Path, names: Sequence[str]) -> None:
    missing = [name for name in (FILE_COLUMN, LABEL_COLUMN) if name not in names]
    if missing:
        raise BadInput(
            f"{path.name} has the columns {', '.join(names) or '(none)'}; its first line must "
            f"name {' and '.join(missing)} too, with commas between"
        )


class _StoredNames:
    """Files by the names that a list has for them. Each folder is listed once at most."""

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, str]] = {}

    def find(self, folder: Path, name: str) -> Path | None:
        names = dict.fromkeys((name, name.replace("\\", "/")))
        candidates = [base / one for base in (folder, folder / PHOTOS) for one in names]
        # Path.is_file raises on a name that is too long; os.path.isfile says no.
        exact = next((path for path in candidates if os.path.isfile(path)), None)  # noqa: PTH113
        if exact is not None:
            return exact
        composed = map(self._as_stored, candidates)
        return next((path for path in composed if path and path.is_file()), None)

    def _as_stored(self, path: Path) -> Path | None:
        """Returns a path that is the same in NFC, and whose folders are there."""
        stored = Path(path.anchor)
        for part in path.relative_to(path.anchor).parts:
            # Exact where it can be: folders above may be closed to listing.
            name = part if os.path.exists(stored / part) else self._names_in(stored).get(_nfc(part))  # noqa: PTH110
            if name is None:
                return None
            stored /= name
        return stored

    def _names_in(self, folder: Path) -> dict[str, str]:
        """The names of a folder's entries, by their normal form."""
        if folder not in self._listed:
            try:
                names = os.listdir(folder)  # noqa: PTH208 (names alone)
            except OSError:
                names = []
            self._listed[folder] = {_nfc(name): name for name in sorted(names)}
        return self._listed[folder]


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _check_complete(path: Path, missing: Sequence[str]) -> None:
    if missing:
        raise BadInput(
            f"{path.name} names {len(missing)} files that are not there: "
            f"{', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}; they are looked for in "
            f"{path.parent.resolve()} and in {PHOTOS}/ there"
        )
