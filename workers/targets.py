"""The models that a process has opened, and where the embeddings of a library's models go."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from twinlens.models.session import default_batch_size
from twinlens.workers.milvus.collection import Collection, collection_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twinlens.models.registry import Registry
    from twinlens.models.session import Embedder
    from twinlens.models.text import TextEncoder
    from twinlens.shared.libraries import Edition, Library
    from twinlens.shared.settings import Settings


class Target(NamedTuple):
    """A model of a library, and where its embeddings go."""

    model: Embedder
    collection: Collection


class Targets:
    """Opens each model once. One that differs from its card raises `ModelRefused`."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._providers = settings.execution_providers
        self._batch_size = settings.batch_size or default_batch_size(settings.execution_providers)
        self._embedders: dict[str, Embedder] = {}
        self._text_encoders: dict[str, TextEncoder] = {}

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

    def text_encoder(self, model: Embedder) -> TextEncoder:
        """Returns a model's text encoder, opened once.

        Raises:
            ModelNotFound: It has none.
            ModelRefused: The encoder differs from the model's card.
        """
        ref = model.card.ref
        if ref not in self._text_encoders:
            self._text_encoders[ref] = self._registry.open_text(ref)
        return self._text_encoders[ref]

    def _embedder(self, ref: str) -> Embedder:
        if ref not in self._embedders:
            self._embedders[ref] = self._registry.open(
                ref, providers=self._providers, batch_size=self._batch_size
            )
        return self._embedders[ref]
