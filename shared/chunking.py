"""How many pictures make one task."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twinlens.shared.settings import Settings

# A task should be short, so that jobs take turns often and the last ones end together, yet long
# compared with its own overhead. From 16 to 64 pictures the rate was the same within a few per cent
# (docs/decisions/0005-feeding.md).
TASK_S = 0.5
CHUNK_ITEMS = 32  # before anything is measured
MIN_CHUNK_ITEMS, MAX_CHUNK_ITEMS = 16, 64
# Of pictures whose vectors are computed from stored ones: by 32 it took nearly twice the processor
# time (docs/decisions/0030-tune.md).
READ_CHUNK_ITEMS = 256


def chunk_items(settings: Settings, cost_s: float | None, *, are_decoded: bool = True) -> int:
    """Returns how many pictures take about `TASK_S`, unless a setting says how many.

    Args:
        settings: They may say how many.
        cost_s: How long a picture of the library took lately, in seconds; None if unknown.
        are_decoded: Whether pictures are needed, and not their stored vectors alone.
    """
    if settings.chunk_items is not None:
        return settings.chunk_items
    if not are_decoded:
        return READ_CHUNK_ITEMS
    if not cost_s:
        return CHUNK_ITEMS
    return max(MIN_CHUNK_ITEMS, min(round(TASK_S / cost_s), MAX_CHUNK_ITEMS))
