"""Where a service has what is backed up, and where it is brought back to."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from twinlens.models.registry import Registry
    from twinlens.shared.blobs import BlobStore
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.workers.library.journaling import Journaling
    from twinlens.workers.milvus.vectors import Vectors


class Stores(NamedTuple):
    """What a running service keeps."""

    catalog: Catalog
    blobs: BlobStore
    vectors: Vectors
    registry: Registry
    journaling: Journaling
