"""What a worker's process has, and makes of a chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.workers.chunk.embedding import embed_chunk

if TYPE_CHECKING:
    from twinlens.workers.process.runtime import Runtime, Target


def targets_of(runtime: Runtime, library: str = "default") -> list[Target]:
    return runtime.targets_of(runtime.catalog.library(library))


def names_of(runtime: Runtime) -> list[str]:
    return [target.model.card.name for target in targets_of(runtime)]


def outcomes(runtime: Runtime, job_id: str, chunk: int = 0) -> list[str]:
    return [item.outcome for item in embed_chunk(runtime, job_id, chunk)]
