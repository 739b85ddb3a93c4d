"""Models that are opened once for all tests: opening one, with its check, takes half a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.models.registry import Registry
from twinlens.models.session import CPU_BATCH_SIZE, CPU_PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from twinlens.models.session import OnnxEmbedder

_opened: dict[tuple[object, ...], OnnxEmbedder] = {}


class KeptModels(Registry):
    """A registry that opens a model again only if its card, or its directory, is another."""

    def open(
        self,
        ref: str,
        *,
        providers: Sequence[str] = CPU_PROVIDERS,
        batch_size: int = CPU_BATCH_SIZE,
    ) -> OnnxEmbedder:
        directory: Path = self.directory.resolve()
        key = (directory, self.card(ref).model_dump_json(), tuple(providers), batch_size)
        if key not in _opened:
            _opened[key] = super().open(ref, providers=providers, batch_size=batch_size)
        return _opened[key]
