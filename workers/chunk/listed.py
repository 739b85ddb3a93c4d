"""Pictures that a listing names: fetched and stored, after which they are like any other."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from twinlens.shared.blobs import image_id_of, image_key
from twinlens.shared.errors import Internal, TwinlensError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.shared.messages import ManifestItem
    from twinlens.workers.process.runtime import Runtime

log = logging.getLogger(__name__)


def store_listed(runtime: Runtime, library: str, entries: Sequence[ManifestItem]) -> None:
    """Fetches what is listed by URI, stores it, and says in each entry what it is, or why not.

    A chunk that is run again fetches again, and so sees what is there by then.
    """
    listed = [entry for entry in entries if entry.uri is not None and entry.error is None]
    if not listed:
        return
    # Threads wait for disks and hosts, several at a time; the blobs are synced together.
    with runtime.blobs.batch() as batch:
        contents = runtime.fetchers.map(lambda entry: _fetch(runtime, entry), listed)
        for entry, content in zip(listed, contents, strict=True):
            if content is not None:
                entry.image_id, entry.n_bytes = image_id_of(content), len(content)
                batch.put(image_key(library, entry.image_id), content)


def _fetch(runtime: Runtime, entry: ManifestItem) -> bytes | None:
    assert entry.uri is not None
    try:
        return runtime.sources.fetch(entry.uri)
    except TwinlensError as error:
        entry.error = error.to_problem()
    except Exception:
        log.exception("fetching %s failed unexpectedly", entry.name)
        entry.error = Internal("The picture could not be fetched; the log says why.").to_problem()
    return None
