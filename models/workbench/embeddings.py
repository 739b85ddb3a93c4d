"""Embeds picture files with several models, each decoded once, and keeps the embeddings.

Embeddings are kept in a directory, part after part, so that an evaluation that was interrupted
goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twinlens.models.bits import Embeddings
from twinlens.models.calibration import Measured
from twinlens.models.card import Card, OutputKind
from twinlens.models.cores import n_cores
from twinlens.models.errors import BadInput
from twinlens.models.pictures import open_picture
from twinlens.models.session import Embedder
from twinlens.shared.errors import BadEmbedding, PictureError

# Pictures that are decoded, embedded and kept at a time: what an interruption costs, a second or
# two. As pixels, 64 pictures of 260 px are 13 MB a model.
CHUNK = 64

ReadBytes = Callable[[], bytes]


@dataclass(frozen=True)
class LeftOut:
    """A file that is left out of the evaluation, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Embedded:
    """Pictures and their embeddings.

    `image_ids` are SHA-256 of the files, each once. `rows` has by model, in the order of `files`:
    float32 [n, dim], or uint8 [n, dim / 8] of packed bits.
    """

    files: tuple[Path, ...]
    image_ids: tuple[str, ...]
    rows: Mapping[str, Embeddings]
    models: Mapping[str, Measured]
    left_out: tuple[LeftOut, ...] = ()

    def take(self, places: Sequence[int]) -> Embedded:
        """Returns some of the pictures, in this order."""
        return replace(
            self,
            files=tuple(self.files[place] for place in places),
            image_ids=tuple(self.image_ids[place] for place in places),
            rows={name: rows[places] for name, rows in self.rows.items()},
        )


class EmbeddingCache:
    """Embeddings in a directory, so that no picture is embedded twice.

        directory/
        └── phash@1@4776cc0a…@5bb2ef01/   a model: name, version, SHA-256 of file, of input
            ├── 0c1f….npz                 image ids and rows of some pictures
            └── …

    Every part is written whole and never changed: whatever ends the process, what is there is
    right. Several processes may share a directory.
    """

    def __init__(self, directory: Path) -> None:
        """Names the directory; it is created with the first part."""
        self._directory = directory

    def load(self, card: Card) -> dict[str, Embeddings]:
        """Returns what is kept for a model: rows by image id. Damaged parts are ignored."""
        rows: dict[str, Embeddings] = {}
        for part in sorted(self._folder(card).glob("*.npz")):
            rows |= _read_part(part, card)
        return rows

    def save(self, card: Card, rows: Mapping[str, Embeddings]) -> None:
        """Keeps rows by image id.

        Raises:
            BadInput: The directory cannot be written.
        """
        if not rows:
            return
        name = hashlib.sha256("".join(rows).encode()).hexdigest()[:32]
        folder = self._folder(card)
        temporary = folder / f".{name}.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as stream:
                np.savez(stream, image_ids=np.array(list(rows)), rows=np.stack(list(rows.values())))
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(folder / f"{name}.npz")
        except OSError as error:
            raise BadInput(
                f"embeddings cannot be kept in {self._directory} ({error.strerror}); "
                "make it writable, or name another directory"
            ) from error

    def _folder(self, card: Card) -> Path:
        # The SHA-256 of the graph knows nothing of the resize and crop before it.
        spec = hashlib.sha256(card.input.model_dump_json().encode()).hexdigest()[:8]
        return self._directory / f"{card.ref}@{card.sha256}@{spec}"


def embed_all(
    models: Sequence[Embedder],
    files: Sequence[Path],
    cache: EmbeddingCache,
    on_progress: Callable[[int], None] = lambda _: None,
    *,
    n_threads: int | None = None,
) -> Embedded:
    """Embeds picture files with every model, each decoded once, or takes them from the cache.

    Args:
        models: The models.
        files: Picture files.
        cache: Where embeddings are kept.
        on_progress: Called after each chunk with the number of files that are done.
        n_threads: How many pictures are worked on at a time; one per core when not given.

    Returns:
        The pictures that could be embedded, in the order of `files`. Those that could not, and
        copies of one before, are `left_out`.

    Raises:
        BadInput: No picture could be embedded, or the cache cannot be written.
    """
    run = EmbeddingRun(models, cache)
    outcomes = run.embed([path.read_bytes for path in files], on_progress, n_threads)
    kept: dict[str, Path] = {}
    left_out: list[LeftOut] = []
    for path, (image_id, reason) in zip(files, outcomes, strict=True):
        if reason is not None:
            left_out.append(LeftOut(path, reason))
        elif image_id in kept:
            left_out.append(LeftOut(path, f"the same file as {kept[image_id].name}"))
        else:
            kept[image_id] = path
    if not kept:
        first = f"; of the first: {left_out[0].reason}" if left_out else ""
        raise BadInput(f"none of the {len(files)} files could be embedded{first}")
    measured = {name: model.card for name, model in run.models.items()}
    return Embedded(
        tuple(kept.values()), tuple(kept), run.rows(list(kept)), measured, tuple(left_out)
    )


def sort_by_id(embedded: Embedded) -> Embedded:
    """Puts pictures in the order of their image ids, which ranks equal distances."""
    return embedded.take(sorted(range(len(embedded.image_ids)), key=embedded.image_ids.__getitem__))


@dataclass(frozen=True)
class _Prepared:
    """A picture on its way: its id, the pixels for each model that lacks it, or what is wrong."""

    image_id: str = ""
    pixels: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    reason: str | None = None


class EmbeddingRun:
    """Embeds contents with several models, and remembers their embeddings."""

    def __init__(self, models: Sequence[Embedder], cache: EmbeddingCache) -> None:
        self.models = _by_name(models)
        self._cache = cache
        self._known = {name: cache.load(model.card) for name, model in self.models.items()}
        self._wanted_px = max(model.card.input.wanted_px for model in models)

    def embed(
        self,
        contents: Sequence[ReadBytes],
        on_progress: Callable[[int], None],
        n_threads: int | None = None,
    ) -> list[tuple[str, str | None]]:
        """Returns the id of each content, and the reason if it has no embedding."""
        outcomes: list[tuple[str, str | None]] = []
        n_threads = n_threads or n_cores()
        with ThreadPoolExecutor(n_threads) as pool:
            for start in range(0, len(contents), CHUNK):
                prepared = list(pool.map(self._prepare, contents[start : start + CHUNK]))
                for name in self.models:
                    waiting = {p.image_id: p.pixels[name] for p in prepared if name in p.pixels}
                    self._embed_waiting(name, waiting, pool, n_threads)
                outcomes += [self._outcome(picture) for picture in prepared]
                on_progress(len(outcomes))
        return outcomes

    def rows(self, image_ids: Sequence[str]) -> dict[str, Embeddings]:
        """Returns each model's embeddings of these pictures."""
        return {
            name: np.array([known[image_id] for image_id in image_ids])
            for name, known in self._known.items()
        }

    def _prepare(self, read: ReadBytes) -> _Prepared:
        try:
            content = read()
        except OSError as error:
            return _Prepared(reason=f"it cannot be read: {error.strerror}")
        image_id = hashlib.sha256(content).hexdigest()
        lacking = [name for name, known in self._known.items() if image_id not in known]
        if not lacking:
            return _Prepared(image_id)
        try:
            picture = open_picture(content, wanted_px=self._wanted_px)
        except PictureError as error:
            return _Prepared(image_id, reason=error.detail)
        specs = {name: self.models[name].card.input for name in lacking}
        return _Prepared(image_id, {n: picture.pixels_for(spec) for n, spec in specs.items()})

    def _embed_waiting(
        self,
        name: str,
        waiting: Mapping[str, NDArray[np.uint8]],
        pool: ThreadPoolExecutor,
        n_slices: int,
    ) -> None:
        if not waiting:
            return
        model = self.models[name]
        slices = np.array_split(np.stack(list(waiting.values())), min(n_slices, len(waiting)))
        embedded = [
            row for rows in pool.map(lambda s: _embed_finite(model, s), slices) for row in rows
        ]
        rows = {i: row for i, row in zip(waiting, embedded, strict=True) if row is not None}
        self._cache.save(model.card, rows)
        self._known[name].update(rows)

    def _outcome(self, picture: _Prepared) -> tuple[str, str | None]:
        reason = picture.reason
        for name, known in self._known.items():
            if reason is None and picture.image_id not in known:
                reason = f"model {name} gives a vector that is not finite"
        return picture.image_id, reason


def _read_part(part: Path, card: Card) -> dict[str, Embeddings]:
    is_bits = card.output is OutputKind.BITS
    try:
        # Of a damaged archive that np.load opens itself, the file stays open.
        with part.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            image_ids, rows = content["image_ids"].tolist(), content["rows"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}
    n_columns = card.dimension // 8 if is_bits else card.dimension
    if rows.dtype != (np.uint8 if is_bits else np.float32) or rows.shape[1:] != (n_columns,):
        return {}
    return dict(zip(image_ids, rows, strict=False))


def _by_name(models: Sequence[Embedder]) -> dict[str, Embedder]:
    """Models by name; by name and version where a name comes twice."""
    counts = Counter(model.card.name for model in models)
    by_name = {
        model.card.name if counts[model.card.name] == 1 else model.card.ref: model
        for model in models
    }
    if not models or len(by_name) < len(models):
        raise BadInput("name at least one model, and none twice")
    return by_name


def _embed_finite(model: Embedder, pixels: NDArray[np.uint8]) -> list[Embeddings | None]:
    """Embeds what it can: one picture that gives a NaN must not cost the others."""
    try:
        return list(model.embed_batch(pixels))
    except BadEmbedding:
        if len(pixels) == 1:
            return [None]
        middle = len(pixels) // 2
        return [*_embed_finite(model, pixels[:middle]), *_embed_finite(model, pixels[middle:])]
