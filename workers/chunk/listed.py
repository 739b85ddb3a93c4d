"""Pictures that a listing names: fetched and stored, after which they are like any other."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlens.shared.blobs import image_id_of, image_key
from twinlens.shared.errors import Internal, TwinlensError
from twinlens.shared.manifests import replace_manifest
from twinlens.workers.chunk.sources import Sources

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from twinlens.shared.blobs import BlobStore
    from twinlens.shared.messages import ManifestHead, ManifestItem

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Fetches and stores pictures, several at a time: threads wait for disks and hosts."""

    blobs: BlobStore
    sources: Sources
    fetchers: Executor

    def store(self, head: ManifestHead, entries: Sequence[ManifestItem]) -> None:
        """Fetches and stores what is listed by URI; gives each entry its id and size, or an error.

        The manifest gets the ids too: from then on it names the pictures. What could not be fetched
        is fetched again whenever the chunk is run again.
        """
        listed = [one for one in entries if one.uri and not (one.error or one.image_id)]
        if not listed:
            return
        written = [entry.model_copy() for entry in entries]
        # The blobs are synced together.
        with self.blobs.batch() as batch:
            for entry, content in zip(listed, self.fetchers.map(self._fetch, listed), strict=True):
                if content is not None:
                    entry.image_id, entry.n_bytes = image_id_of(content), len(content)
                    batch.put(image_key(head.library_id, entry.image_id), content)
        for line, entry in zip(written, entries, strict=True):
            line.image_id, line.n_bytes = entry.image_id, entry.n_bytes
        replace_manifest(self.blobs, head, written)

    def _fetch(self, entry: ManifestItem) -> bytes | None:
        assert entry.uri is not None
        try:
            return self.sources.fetch(entry.uri)
        except TwinlensError as error:
            entry.error = error.to_problem()
        except Exception:
            log.exception("fetching %s failed unexpectedly", entry.name)
            entry.error = Internal(
                "The picture could not be fetched; the log says why."
            ).to_problem()
        return None
