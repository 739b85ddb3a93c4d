"""A directory of models: each an ONNX file with its card beside it.

    models/
    ├── efficientnet-lite0.toml     the card; its `file` names the ONNX file
    ├── efficientnet-lite0-1.onnx
    ├── …
    └── golden/chelsea.png, …       pictures with known answers

Any model of that form may be put there; the shipped ones are built on first use.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from twinlens.models.build import build_model
from twinlens.models.card import Card, load_card
from twinlens.models.session import CPU_BATCH_SIZE, CPU_PROVIDERS, OnnxEmbedder
from twinlens.models.verify import GOLDEN_DIRECTORY, check_golden
from twinlens.shared.errors import BadCard, ModelNotFound, ModelRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

SHIPPED_CARDS = Path(__file__).parent / "cards"


def ensure_models(directory: Path) -> list[Card]:
    """Builds the shipped models that are not in `directory` yet, each with its card.

    A model is there when its card is, in the shipped version, with the ONNX file that it names.
    Several processes may do this at once: each writes whole files in one step.

    Returns:
        The cards of the shipped models as they lie in `directory`.
    """
    (directory / GOLDEN_DIRECTORY).mkdir(parents=True, exist_ok=True)
    for picture in sorted((SHIPPED_CARDS / GOLDEN_DIRECTORY).glob("*.png")):
        target = directory / GOLDEN_DIRECTORY / picture.name
        if not target.exists():
            _write_whole(target, picture.read_bytes())
    return [_ensure_model(path, directory) for path in sorted(SHIPPED_CARDS.glob("*.toml"))]


class Registry:
    """The models of one directory."""

    def __init__(self, directory: Path) -> None:
        """Names the directory; files are read when they are asked for."""
        self._directory = directory

    def cards(self) -> list[Card]:
        """Reads every card, by name.

        Raises:
            BadCard: a card is not valid, or two would share a Milvus collection.
        """
        cards = [load_card(path) for path in sorted(self._directory.glob("*.toml"))]
        names: set[str] = set()
        for card in cards:
            # a-b and a_b are one name to Milvus.
            name = card.name.replace("-", "_").lower()
            if name in names:
                raise BadCard(
                    f"two models in the directory are named {card.name!r} (hyphen and underscore "
                    "are one here): rename or remove one"
                )
            names.add(name)
        return sorted(cards, key=lambda card: card.name)

    def card(self, name: str) -> Card:
        """Reads one card.

        Raises:
            ModelNotFound: there is none of this name; the detail names those there are.
        """
        cards = self.cards()
        for card in cards:
            if card.name == name:
                return card
        known = ", ".join(card.name for card in cards) or "none"
        raise ModelNotFound(f"no model is named {name!r}; there are: {known}")

    def open(
        self,
        name: str,
        *,
        providers: Sequence[str] = CPU_PROVIDERS,
        batch_size: int = CPU_BATCH_SIZE,
    ) -> OnnxEmbedder:
        """Opens a session, once the file and its golden embeddings are what the card says.

        Raises:
            ModelNotFound: there is no such card.
            ModelRefused: the file is missing or another, or gives other embeddings.
        """
        card = self.card(name)
        model = _read_model(card, self._directory)
        embedder = OnnxEmbedder(card, model, providers=providers, batch_size=batch_size)
        check_golden(embedder, self._directory)
        return embedder


def _read_model(card: Card, directory: Path) -> bytes:
    try:
        model = (directory / card.file).read_bytes()
    except OSError as error:
        raise ModelRefused(
            f"model {card.name} {card.version}: {card.file} cannot be read ({error.strerror}); "
            "put it beside its card, or delete the card of a shipped model to have it built again"
        ) from error
    # The bytes that are checked are the bytes that are run.
    found = hashlib.sha256(model).hexdigest()
    if found != card.sha256:
        raise ModelRefused(
            f"model {card.name} {card.version}: SHA-256 of {card.file} is {found}, and "
            f"{card.sha256} by its card: the file was changed or damaged. Restore it; a shipped "
            "model is built again once its card and its file are deleted"
        )
    return model


def _ensure_model(shipped_path: Path, directory: Path) -> Card:
    shipped = load_card(shipped_path)
    card_path = directory / shipped_path.name
    if card_path.exists():
        present = load_card(card_path)
        if present.version == shipped.version and (directory / present.file).exists():
            return present
    model = build_model(shipped.name)
    # Another onnx or protobuf may write the same graph in other bytes. So the card carries the
    # SHA-256 of the file that was built here; the golden embeddings are the check of the build.
    sha256 = hashlib.sha256(model).hexdigest()
    text = shipped_path.read_text(encoding="utf-8").replace(shipped.sha256, sha256)
    _write_whole(directory / shipped.file, model)
    _write_whole(card_path, text.encode())
    return load_card(card_path)


def _write_whole(path: Path, content: bytes) -> None:
    """Writes a file in one step: nobody reads half of it, and the last of several writers wins."""
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
