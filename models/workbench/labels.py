"""The list of labelled pictures of an evaluation: a CSV with the columns `file` and `label`."""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from twinlens.models.errors import BadInput
from twinlens.shared.files import open_regular

FILE_COLUMN, LABEL_COLUMN = "file", "label"
SOURCE_COLUMN = "source"

PHOTOS = "photos"

# A picture is a query when two others have its label: with one, a single place decides all.
MIN_PICTURES = 3


@dataclass(frozen=True)
class Labelled:
    """A picture file, what it shows and where it is from; "" if that is not given."""

    path: Path
    label: str
    source: str = ""


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
    _check_labels(path, Counter(one.label for one in pictures.values() if one.label))
    return list(pictures.values())


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


def _check_labels(path: Path, n_pictures: Counter[str]) -> None:
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
