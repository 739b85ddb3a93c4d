"""Records as the catalogue has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twinlens.shared.messages import Image, ModelSummary, now
from twinlens.shared.redis import keys

if TYPE_CHECKING:
    from twinlens.shared.libraries import Library
    from twinlens.shared.redis.client import Redis


def make_library(redis: Redis, library: Library) -> None:
    """Makes a library, in place of any of its name."""
    redis.hset(keys.LIBRARIES, library.name, library.model_dump_json())


def image(image_id: str, name: str = "a.jpg", library: str = "default") -> Image:
    return Image(
        id=image_id,
        name=name,
        library=library,
        width=2,
        height=1,
        format="image/jpeg",
        bytes=3,
        models=["lite0@1"],
        added_at=now(),
    )


def summary(
    name: str, version: str = "1", *, has_text: bool = False, metric: Any = "L2"
) -> ModelSummary:
    return ModelSummary(
        name=name,
        version=version,
        title=name,
        dimension=8,
        metric=metric,
        input={"width": 4},
        weight=1.0,
        licence="Apache-2.0",
        source="https://example.org",
        sha256="0" * 64,
        has_text=has_text,
    )
