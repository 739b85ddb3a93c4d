"""A directory of models: each an ONNX file with its card beside it.

    models/
    ├── efficientnet-lite0@1.toml   the card; its `file` names the ONNX file
    ├── efficientnet-lite0@1.onnx
    ├── …
    └── golden/chelsea.png, …       pictures with known answers

Versions of a model lie beside each other. A model is named NAME@VERSION; NAME is enough if there is
only one version. Shipped models are built on first use; others of the same form may be added.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from twinlens.models.build import build_model
from twinlens.models.card import (
    Card,
    Golden,
    TextSpec,
    check_name,
    check_version,
    collection_key,
    dump_card,
    load_card,
    parse_card,
)
from twinlens.models.cards import SHIPPED_CARDS, shipped_refs
from twinlens.models.errors import BadInput
from twinlens.models.session import CPU_BATCH_SIZE, CPU_PROVIDERS, OnnxEmbedder
from twinlens.models.text import TextEncoder
from twinlens.models.verify import GOLDEN_DIRECTORY, check_golden, make_golden
from twinlens.shared.errors import BadCard, ModelExists, ModelNotFound, ModelRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# What a new library searches with.
DEFAULT_MODELS = ("efficientnet-lite0@1-int8", "efficientnet-lite2@1-int8", "phash@1")


def ensure_models(directory: Path, refs: Iterable[str] | None = None) -> list[Card]:
    """Builds shipped models that are not in `directory` yet, each with its card.

    A model is there when its card is, with the ONNX file that it names. Several processes may do
    this at once: each writes whole files in one step.

    Args:
        directory: Created if it is not there.
        refs: Which models; all by default.

    Returns:
        Their cards as they lie in `directory`.

    Raises:
        BadInput: The directory cannot be written to.
    """
    _ensure_golden_pictures(directory)
    with _building(directory):
        return [_ensure_model(ref, directory) for ref in refs or shipped_refs()]


class Registry:
    """The models of one directory."""

    def __init__(self, directory: Path) -> None:
        """Names the directory; files are read when they are asked for."""
        self._directory = directory

    @property
    def directory(self) -> Path:
        """Where the cards lie."""
        return self._directory

    def path_of(self, card: Card) -> Path:
        """Returns where a model's ONNX file lies."""
        return self._directory / card.file

    def cards(self) -> list[Card]:
        """Reads every card, by name and version.

        Raises:
            BadCard: A card is not valid, or two cards would share a Milvus collection.
        """
        cards = [load_card(path) for path in sorted(self._directory.glob("*.toml"))]
        keys: set[str] = set()
        for card in cards:
            # a-b and a_b are one name to Milvus.
            key = card.key.lower()
            if key in keys:
                raise BadCard(
                    f"two models in the directory are {card.ref!r} (hyphen and underscore are one "
                    "here): rename or remove one"
                )
            keys.add(key)
        return sorted(cards, key=lambda card: (card.name, card.version))

    def card(self, ref: str) -> Card:
        """Reads one card.

        Args:
            ref: NAME@VERSION, or NAME where there is one version.

        Raises:
            ModelNotFound: There is none, or there are several; the detail names them.
        """
        cards = self.cards()
        named = [card for card in cards if ref in (card.name, card.ref)]
        if len(named) == 1:
            return named[0]
        there = ", ".join(card.ref for card in named or cards) or "none"
        if named:
            raise ModelNotFound(f"model {ref!r} has several versions, name one of: {there}")
        raise ModelNotFound(f"no model is named {ref!r}; there are: {there}")

    def open(
        self,
        ref: str,
        *,
        providers: Sequence[str] = CPU_PROVIDERS,
        batch_size: int = CPU_BATCH_SIZE,
    ) -> OnnxEmbedder:
        """Opens a session, after checking the file and its golden embeddings against the card.

        Raises:
            ModelNotFound: There is no such card, or its file is missing.
            ModelRefused: The file differs from the card, or gives other embeddings.
        """
        card = self.card(ref)
        model = self._read(card, card.file, card.sha256)
        embedder = OnnxEmbedder(card, model, providers=providers, batch_size=batch_size)
        check_golden(embedder, self._directory)
        return embedder

    def open_text(self, ref: str) -> TextEncoder:
        """Opens a model's text encoder.

        Raises:
            ModelNotFound: There is no such card, it names no text encoder, or a file is missing.
            ModelRefused: A file differs from the card, or the encoder does not fit.
        """
        card = self.card(ref)
        text = self.read_text(card)
        if text is None:
            raise ModelNotFound(f"model {card.ref} has no text encoder")
        return TextEncoder(card, *text)

    def read(self, ref: str) -> tuple[Card, bytes]:
        """Reads a model's card and its ONNX file, checked by its SHA-256."""
        card = self.card(ref)
        return card, self._read(card, card.file, card.sha256)

    def read_text(self, card: Card) -> tuple[bytes, bytes] | None:
        """Reads the ONNX file and the tokenizer of a model's text encoder, where it has one."""
        text = card.text
        if text is None:
            return None
        graph = self._read(card, text.file, text.sha256)
        return graph, self._read(card, text.tokenizer, text.tokenizer_sha256)

    def check_new(self, name: str, version: str) -> None:
        """Makes sure that a model can be added under this name and version.

        Raises:
            BadInput: It cannot be called so.
            ModelExists: There is one that is called so.
        """
        try:
            key = collection_key(check_name(name), check_version(version)).lower()
        except ValueError as error:
            raise BadInput(str(error)) from None
        for card in self.cards():
            if card.key.lower() == key:
                raise ModelExists(
                    f"model {card.ref} is there already; remove it first, or add the new one under "
                    "another name or version"
                )

    def add(self, card: Card, model: bytes, text: tuple[bytes, bytes] | None = None) -> Card:
        """Adds a model, with golden embeddings of its own. Its card is written last, in one step.

        Args:
            card: What it is; file names, SHA-256 and golden embeddings are filled in here.
            model: The ONNX file.
            text: ONNX file and tokenizer of its text encoder, where `card.text` is given.

        Returns:
            The card as written.

        Raises:
            BadInput, ModelExists: See `check_new`.
            ModelRefused: The model does not run, or is not what the card says.
        """
        self.check_new(card.name, card.version)
        _ensure_golden_pictures(self._directory)
        card, files = _named(card, model, text)
        embedder = OnnxEmbedder(card, model)
        if text is not None and card.text is not None:
            TextEncoder(card, *text)
        card = card.model_copy(update={"golden": make_golden(embedder, self._directory)})
        self._write(card, files)
        return card

    def pack(self, ref: str) -> dict[str, bytes]:
        """Returns all that a model is, as files by name, for `unpack`.

        Raises:
            ModelNotFound: There is no such card.
            ModelRefused: A file is missing or differs from the card.
        """
        card, model = self.read(ref)
        card, files = _named(card, model, self.read_text(card))
        for golden in card.golden:
            name = _golden_name(golden)
            try:
                files[name] = (self._directory / name).read_bytes()
            except OSError as error:
                raise ModelRefused(f"model {ref}: {name}: {error.strerror}") from error
        return files | {card_name(ref): dump_card(card).encode()}

    def unpack(self, ref: str, files: Mapping[str, bytes]) -> None:
        """Adds a model as it was elsewhere. It is checked when it is opened.

        Args:
            ref: NAME@VERSION.
            files: As `pack` gave them. Only those that the card names are written.

        Raises:
            BadCard: The card is not valid, is another's, or names what is not among the files.
            BadInput, ModelExists: See `check_new`.
        """
        name = card_name(ref)
        card = parse_card(name, files.get(name, b""))
        goldens = {_golden_name(golden) for golden in card.golden}
        wanted = {*_files_of(card), *goldens}
        if card.ref != ref or not wanted <= files.keys():
            raise BadCard(f"{name} is of {card.ref}, or a file that it names is missing")
        self.check_new(card.name, card.version)
        _ensure_golden_pictures(self._directory)
        there = {one for one in goldens if (self._directory / one).exists()}
        self._write(card, {one: files[one] for one in sorted(wanted - there)})

    def rewrite(self, card: Card) -> None:
        """Replaces the card of a model that is there."""
        for path in self._directory.glob("*.toml"):
            if load_card(path).ref == card.ref:
                _write_whole(path, dump_card(card).encode())

    def remove(self, ref: str) -> Card:
        """Removes a model. Its card goes first, so that nobody finds half a model."""
        card = self.card(ref)
        with _changing(self._directory):
            for path in self._directory.glob("*.toml"):
                if load_card(path).ref == card.ref:
                    path.unlink()
            for name in _files_of(card):
                (self._directory / name).unlink(missing_ok=True)
        return card

    def _write(self, card: Card, files: Mapping[str, bytes]) -> None:
        for name, content in files.items():
            _write_whole(self._directory / name, content)
        _write_whole(self._directory / card_name(card.ref), dump_card(card).encode())

    def _read(self, card: Card, name: str, sha256: str) -> bytes:
        try:
            content = (self._directory / name).read_bytes()
        except FileNotFoundError as error:
            raise ModelNotFound(
                f"model {card.ref}: {name} is missing; put it beside its card, or delete the card "
                "of a shipped model to have it built again"
            ) from error
        except OSError as error:
            raise ModelRefused(
                f"model {card.ref}: {name} cannot be read ({error.strerror}); make it readable"
            ) from error
        # The bytes that are checked are the bytes that are run.
        actual = _sha256(content)
        if actual != sha256:
            raise ModelRefused(
                f"model {card.ref}: SHA-256 of {name} is {actual}, and {sha256} by its card: the "
                "file was changed or damaged. Restore it; a shipped model is built again once its "
                "card and its file are deleted"
            )
        return content


def card_name(ref: str) -> str:
    """Returns how the file of a model's card is called, unless somebody called it otherwise."""
    return f"{ref}.toml"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _files_of(card: Card) -> list[str]:
    return [card.file, *((card.text.file, card.text.tokenizer) if card.text else ())]


def _golden_name(golden: Golden) -> str:
    return f"{GOLDEN_DIRECTORY}/{golden.picture}"


def _named(
    card: Card, model: bytes, text: tuple[bytes, bytes] | None
) -> tuple[Card, dict[str, bytes]]:
    """Gives a model's files their names, and these with their SHA-256 to its card."""
    files = {f"{card.ref}.onnx": model}
    card = card.model_copy(update={"file": f"{card.ref}.onnx", "sha256": _sha256(model)})
    if text is not None and card.text is not None:
        card = card.model_copy(update={"text": _named_text(card, card.text, text)})
        files |= {f"{card.ref}.text.onnx": text[0], f"{card.ref}.tokenizer.json": text[1]}
    return card, files


def _named_text(card: Card, spec: TextSpec, text: tuple[bytes, bytes]) -> TextSpec:
    graph, tokenizer = text
    return spec.model_copy(
        update={
            "file": f"{card.ref}.text.onnx",
            "sha256": _sha256(graph),
            "tokenizer": f"{card.ref}.tokenizer.json",
            "tokenizer_sha256": _sha256(tokenizer),
        }
    )


def _ensure_golden_pictures(directory: Path) -> None:
    with _changing(directory):
        (directory / GOLDEN_DIRECTORY).mkdir(parents=True, exist_ok=True)
    for picture in sorted((SHIPPED_CARDS / GOLDEN_DIRECTORY).glob("*.png")):
        target = directory / GOLDEN_DIRECTORY / picture.name
        if not target.exists():
            _write_whole(target, picture.read_bytes())


@contextmanager
def _building(directory: Path) -> Iterator[None]:
    """Lets one process build while the others wait for the result: each would take seconds."""
    with _changing(directory):
        file = (directory / ".lock").open("ab")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _ensure_model(ref: str, directory: Path) -> Card:
    shipped_path = SHIPPED_CARDS / f"{ref}.toml"
    shipped = load_card(shipped_path)
    card_path = directory / shipped_path.name
    if card_path.exists() and (directory / load_card(card_path).file).exists():
        return load_card(card_path)
    model = build_model(ref)
    # Another onnx or protobuf may write the same graph in other bytes. So the card carries the
    # SHA-256 of the file that was built here; the golden embeddings are the check of the build.
    text = shipped_path.read_text(encoding="utf-8").replace(shipped.sha256, _sha256(model))
    _write_whole(directory / shipped.file, model)
    _write_whole(card_path, text.encode())
    return load_card(card_path)


@contextmanager
def _changing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"the models in {directory} cannot be changed ({error.strerror}); make it writable, or "
            "name another directory"
        ) from error


def _write_whole(path: Path, content: bytes) -> None:
    """Writes a file in one step: nobody reads half of it, and the last of several writers wins."""
    with _changing(path.parent):
        _replace(path, content)


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp's 0600 would lock out a worker that runs as another user.
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
