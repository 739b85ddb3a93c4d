"""Removes libraries whole, and what was still written of them as they were removed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlens.shared.errors import LibraryNotFound, Unavailable
from twinlens.shared.queue import LIBRARY_TIME_LIMIT_S

if TYPE_CHECKING:
    from twinlens.shared.blobs import BlobStore
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.shared.redis.jobs import Job

# A removal's own task is given this long before others look after what is left.
OWN_TASK_S = 600


@dataclass(frozen=True, kw_only=True)
class Removals:
    """What a removed library had lies under its id, which no other library ever gets.

    So nothing is lost where one of its name is made at once, and all can be removed again. The
    collections go by themselves, as those of a plan that was given up (`Editions.tend`).
    """

    catalog: Catalog
    blobs: BlobStore

    def remove(self, job: Job) -> None:
        """Removes the library that a job is about; repeating it changes nothing.

        Raises:
            Unavailable: Something cannot be removed yet.
        """
        with contextlib.suppress(LibraryNotFound):  # it is forgotten already
            self.catalog.remove_library(job.library, job.library_id)
        self._delete_blobs(job.library_id)

    def tend(self) -> None:
        """Removes again what was written of libraries since they were removed.

        Uploads may go on meanwhile, and tasks that had begun: each ends within the time limit.

        Raises:
            Unavailable: Something cannot be removed yet.
        """
        over = self.catalog.removed_libraries(LIBRARY_TIME_LIMIT_S)
        quiet = [one for one in over if not self.catalog.has_open_uploads(one)]
        for library_id in self.catalog.removed_libraries(OWN_TASK_S):
            self.catalog.forget_images_of(library_id)
            self._delete_blobs(library_id)
        for library_id in quiet:
            self.catalog.forget_removed(library_id)

    def _delete_blobs(self, library_id: str) -> None:
        try:
            self.blobs.delete_library(library_id)
        except OSError as error:
            raise Unavailable(
                f"The pictures of library {library_id} cannot be removed yet: {error.strerror}"
            ) from error
