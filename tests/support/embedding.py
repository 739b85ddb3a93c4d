"""What a worker's process has, and makes of a chunk, or a removal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support.results import stored_items

from twinlens.workers.process.runtime import build_runtime

if TYPE_CHECKING:
    from twinlens.shared.messages import Item
    from twinlens.workers.process.runtime import Runtime
    from twinlens.workers.targets import Target


def targets_of(runtime: Runtime, library: str = "default") -> list[Target]:
    return runtime.targets.of(runtime.catalog.library(library))


def names_of(runtime: Runtime) -> list[str]:
    return [target.model.card.name for target in targets_of(runtime)]


def set_anew(runtime: Runtime, **settings: Any) -> Runtime:
    """Returns what a process would have if some of its settings were others."""
    changed = runtime.settings.model_copy(update=settings)
    return build_runtime(changed, runtime.lanes, runtime.registry)


def embed(runtime: Runtime, job_id: str, chunk: int = 0) -> list[Item]:
    """Does a chunk as its task does: counts it, and switches an edition on that it made whole."""
    items = runtime.chunks.run(job_id, chunk)
    runtime.jobs.count_chunk(job_id, chunk, items, stored_items(job_id, chunk, items))
    runtime.editions.switch_if_built(job_id)
    return items


def outcomes(runtime: Runtime, job_id: str, chunk: int = 0) -> list[str]:
    return [item.outcome for item in embed(runtime, job_id, chunk)]


def library_id(runtime: Runtime, name: str) -> str:
    """Returns under what a library's images are kept."""
    return runtime.catalog.library(name).id


def delete_image(runtime: Runtime, job_id: str, image_id: str) -> None:
    """Removes an image as its task does."""
    runtime.images.delete(runtime.jobs.get(job_id), [image_id])
