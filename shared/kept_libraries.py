"""Libraries' records beside the pictures: Redis may be emptied, and Milvus names none of them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlens.shared.blobs import BlobStore, library_key
from twinlens.shared.libraries import Library

if TYPE_CHECKING:
    from collections.abc import Container, Iterator


@dataclass(frozen=True)
class KeptLibraries:
    """A file for each library."""

    blobs: BlobStore

    def all(self, without: Container[str] = ()) -> Iterator[Library]:
        """Yields what is kept, but for some ids; what cannot be read is left out."""
        for name in self.blobs.names("libraries"):
            library_id = name.removesuffix(".json")
            if library_id not in without:
                with contextlib.suppress(FileNotFoundError, ValueError):
                    yield self._read(library_id)

    def has_images(self, library_id: str) -> bool:
        """Tells if a library has pictures."""
        return bool(self.blobs.names(f"images/{library_id}"))

    def has(self, library: Library) -> bool:
        """Tells if a record is kept as it is."""
        try:
            return self._read(library.id) == library
        except (FileNotFoundError, ValueError):
            return False

    def put(self, library: Library) -> None:
        """Keeps a record; when this returns, it survives a power cut."""
        self.blobs.replace(library_key(library.id), library.model_dump_json().encode())

    def delete(self, library_id: str) -> None:
        self.blobs.delete(library_key(library_id))

    def _read(self, library_id: str) -> Library:
        return Library.model_validate_json(self.blobs.get(library_key(library_id)))
