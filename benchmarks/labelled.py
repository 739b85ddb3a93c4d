"""Labelled pictures, embedded with the default models, and parts of them as libraries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from twinlens.models.registry import DEFAULT_MODELS, Registry, ensure_models
from twinlens.models.workbench.embeddings import Embedded, EmbeddingCache, embed_all
from twinlens.models.workbench.labels import Labelled


def embed_labelled(pictures: Sequence[Labelled], work: Path) -> Embedded:
    """Embeds all; `work` takes models and embeddings."""
    ensure_models(work / "models", DEFAULT_MODELS)
    registry = Registry(work / "models")
    embedders = [registry.open(ref) for ref in DEFAULT_MODELS]
    return embed_all(embedders, [one.path for one in pictures], EmbeddingCache(work / "cache"))


def part_of(whole: Embedded, pictures: Iterable[Labelled]) -> Embedded:
    """Returns what a library of some of the pictures has."""
    wanted = {one.path for one in pictures}
    return whole.take([place for place, path in enumerate(whole.files) if path in wanted])
