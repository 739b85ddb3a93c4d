"""Reconciling: libraries are compared, store by store, each as a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlens.api.access.checks import check_library, sees_library
from twinlens.shared.queue import RECONCILE, TaskMessage

if TYPE_CHECKING:
    from twinlens.api.accepting.intake import Intake
    from twinlens.api.accepting.terms import Terms
    from twinlens.shared.answers import ReconcileQuery
    from twinlens.shared.libraries import Library
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.shared.redis.jobs import Job


@dataclass(frozen=True, kw_only=True)
class Reconciliations:
    """Accepts jobs that compare libraries. A worker reads the stores."""

    catalog: Catalog
    intake: Intake

    def ask(self, asked: ReconcileQuery, terms: Terms) -> list[Job]:
        """Queues the comparison of one library, or of all that the caller's key is for.

        Records that Redis has lost come back first.

        Args:
            asked: Which, and how.
            terms: Those of the caller.

        Raises:
            LibraryNotFound: There is no library of this name.
            NotAllowed: The caller's key is for others.
            IdempotencyConflict: The key was sent with another request.
        """
        if asked.library is not None:
            check_library(asked.library)
        self.catalog.restore_libraries()
        if asked.library is not None:
            libraries = [self.catalog.library(asked.library)]
        else:
            libraries = [one for one in self.catalog.libraries() if sees_library(one.name)]
        return [self._queue(library, asked, terms) for library in libraries]

    def _queue(self, library: Library, asked: ReconcileQuery, terms: Terms) -> Job:
        if terms.key is not None:
            terms = terms._replace(key=f"{terms.key}{library.id}")
        job = self.intake.new_job("reconcile", library, terms)
        kwargs = {"job_id": job.id, "asked": asked.model_dump(mode="json")}
        task = TaskMessage(RECONCILE, kwargs, job.id, "single")
        return self.intake.submit(job, task, terms, fingerprint=asked.model_dump_json()).job
