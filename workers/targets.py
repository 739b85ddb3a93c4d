"""The models that a process has opened, and where the embeddings of a library's models go."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from twinlens.models.build.linear import read_linear_map
from twinlens.models.card import Original
from twinlens.models.session import default_batch_size
from twinlens.shared.errors import ModelRefused
from twinlens.workers.milvus.collection import Collection, collection_of
from twinlens.workers.watch import GROUP_TIME_LIMITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from twinlens.models.build.linear import LinearMap
    from twinlens.models.card import Card
    from twinlens.models.registry import Registry
    from twinlens.models.session import Embedder, Embeddings, Pixels
    from twinlens.models.text import TextEncoder
    from twinlens.shared.libraries import Edition, Library
    from twinlens.shared.settings import Settings
    from twinlens.workers.watch import Watch


class Target(NamedTuple):
    """A model of a library, and where its embeddings go."""

    model: Embedder
    collection: Collection


class WatchedEmbedder:
    """A model that ends this process if it hangs, and knows when it answered last."""

    def __init__(self, model: Embedder, watch: Watch, batch_size: int, limit_s: float) -> None:
        """Begins. The model has just answered, as it was opened.

        Args:
            model: The model.
            watch: Ends the process.
            batch_size: How many pictures go through it at a time: a limit of each time.
            limit_s: How long one picture may take.
        """
        self._model, self._watch = model, watch
        self._batch_size, self._limit_s = batch_size, limit_s
        self.answered_at = time.monotonic()
        self.took_s = 0.0  # for a picture

    @property
    def card(self) -> Card:
        """The model's card."""
        return self._model.card

    def embed_batch(self, pixels: Pixels) -> Embeddings:
        """See `Embedder.embed_batch`."""
        starts = range(0, max(len(pixels), 1), self._batch_size)
        return np.concatenate([self._embed(pixels[at : at + self._batch_size]) for at in starts])

    def _embed(self, pixels: Pixels) -> Embeddings:
        began = time.monotonic()
        limit_s = self._limit_s * min(len(pixels), GROUP_TIME_LIMITS)
        with self._watch.within(limit_s, f"model {self.card.ref}"):
            embeddings = self._model.embed_batch(pixels)
        self.answered_at = time.monotonic()
        self.took_s = (self.answered_at - began) / max(len(pixels), 1)
        return embeddings


class WatchedTextEncoder:
    """A text encoder that ends this process if it hangs."""

    def __init__(self, encoder: TextEncoder, watch: Watch, ref: str, limit_s: float) -> None:
        self._encoder, self._watch = encoder, watch
        self._what, self._limit_s = f"the text encoder of model {ref}", limit_s

    def encode(self, text: str) -> NDArray[np.float32]:
        """See `TextEncoder.encode`."""
        with self._watch.within(self._limit_s, self._what):
            return self._encoder.encode(text)


class Targets:
    """Opens each model once. One that differs from its card raises `ModelRefused`."""

    def __init__(self, registry: Registry, settings: Settings, watch: Watch) -> None:
        self._registry = registry
        self._watch = watch
        self._providers = settings.execution_providers
        self._batch_size = settings.batch_size or default_batch_size(settings.execution_providers)
        self._limit_s = settings.embed_time_limit_s
        self._open_limit_s = settings.chunk_time_limit_s
        self._embedders: dict[str, WatchedEmbedder] = {}
        self._refused: dict[str, int | None] = {}  # those that were, and when its file was changed
        self._text_encoders: dict[str, WatchedTextEncoder] = {}
        self._linear_maps: dict[str, LinearMap] = {}

    @property
    def opened(self) -> list[WatchedEmbedder]:
        """The models that were opened."""
        return list(self._embedders.values())

    def has(self, card: Card) -> bool:
        """Tells if a model is open, or could be, as far as is known."""
        changed_at = self._changed_at(card)
        is_there = changed_at is not None and self._refused.get(card.ref) != changed_at
        return is_there or card.ref in self._embedders

    def of(self, edition: Edition, wanted: Iterable[str] | None = None) -> list[Target]:
        """Returns the models of a library's edition, or some of them by name@version.

        Raises:
            ModelNotFound: A model is not in this worker's directory.
            ModelRefused: A model differs from its card.
        """
        models = [self._embedder(ref) for ref in wanted or edition.models]
        return [Target(model, collection_of(edition, model.card)) for model in models]

    def of_editions(self, library: Library) -> dict[str, Target]:
        """Returns the targets of a library's pictures in all its editions, by collection.

        Raises:
            ModelNotFound: A model is not in this worker's directory.
            ModelRefused: A model differs from its card.
        """
        return {
            target.collection.name: target
            for edition in library.editions
            for target in self.of(edition)
        }

    def linear_map(self, model: Embedder) -> LinearMap:
        """Returns the map at the end of a model's graph, read once.

        Raises:
            ModelError: It has none, or differs from its card.
        """
        ref = model.card.ref
        if ref not in self._linear_maps:
            self._linear_maps[ref] = read_linear_map(self._registry.read(ref)[1])
        return self._linear_maps[ref]

    def text_encoder(self, model: Embedder) -> WatchedTextEncoder:
        """Returns a model's text encoder, opened once.

        Raises:
            ModelNotFound: It has none.
            ModelRefused: The encoder differs from the model's card.
        """
        ref = model.card.ref
        if ref not in self._text_encoders:
            with self._watch.within(self._open_limit_s, f"opening the text encoder of {ref}"):
                encoder = self._registry.open_text(ref)
            n_texts = min(encoder.n_templates, GROUP_TIME_LIMITS)
            self._text_encoders[ref] = WatchedTextEncoder(
                encoder, self._watch, ref, self._limit_s * n_texts
            )
        return self._text_encoders[ref]

    def _embedder(self, ref: str) -> WatchedEmbedder:
        if ref not in self._embedders:
            model = WatchedEmbedder(self._open(ref), self._watch, self._batch_size, self._limit_s)
            self._embedders[ref] = model
        return self._embedders[ref]

    def _open(self, ref: str) -> Embedder:
        with self._watch.within(self._open_limit_s, f"opening model {ref}"):
            try:
                return self._registry.open(
                    ref, providers=self._providers, batch_size=self._batch_size
                )
            except ModelRefused:
                self._refused[ref] = self._changed_at(self._registry.card(ref))
                raise

    def _changed_at(self, card: Card) -> int | None:
        """Returns when a model's file was changed, in ns; None if it is gone."""
        with contextlib.suppress(OSError):
            return self._registry.path_of(card).stat().st_mtime_ns
        return None


def source_of(target: Target, targets: Mapping[str, Target]) -> Collection | None:
    """Returns where the embeddings are that a model's can be computed from, as good as its own.

    Of numbers of two bytes they would be others.

    Args:
        target: The model.
        targets: Those of its library, from `Targets.of_editions`.
    """
    original = target.model.card.linear_of
    for model, collection in targets.values() if original else ():
        is_original = original == Original(ref=model.card.ref, sha256=model.card.sha256)
        if is_original and collection.dtype == np.float32:
            return collection
    return None
