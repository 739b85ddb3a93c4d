"""A job on its way to being accepted: recorded, its key claimed; or taken back whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from twinlens.api.accepting.idempotency import KeyOwner, check_same_request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twinlens.api.accepting.idempotency import IdempotencyKeys
    from twinlens.api.accepting.terms import Terms
    from twinlens.shared.redis.jobs import Job, Jobs


class Accepted(NamedTuple):
    """The job that stands for a request."""

    job: Job
    is_new: bool


class Submission:
    """One request for a job, which leads to at most one job."""

    def __init__(
        self,
        jobs: Jobs,
        keys: IdempotencyKeys,
        job: Job,
        terms: Terms,
        kept: Mapping[str, tuple[bytes, int]] | None = None,
    ) -> None:
        """Begins. Nothing is recorded yet.

        Args:
            jobs: Job records.
            keys: Callers' keys.
            job: The job that the request asks for.
            terms: Those of the caller.
            kept: Values to keep with the job: by key, the value and its life in seconds.
        """
        self.job = job
        self._jobs = jobs
        self._keys = keys
        self._key = terms.key
        self._terms = terms
        self._kept = kept or {}
        self._owner: KeyOwner | None = None

    @property
    def is_open(self) -> bool:
        """Whether a job stands for the request: this one, or an earlier one."""
        return self._owner is not None

    @property
    def is_repeat(self) -> bool:
        """Whether the key stands for an earlier job, and this one is not recorded."""
        return self._owner is not None and self._owner.job_id != self.job.id

    def open(self, fingerprint: str = "") -> None:
        """Records the job, and claims its key.

        The record comes first: whoever repeats the request with the same key meanwhile is told of
        a job that exists.

        Args:
            fingerprint: The request's; empty while it is still arriving (then call `settle`).

        Raises:
            UploadInProgress: The key's first request is still arriving.
        """
        fingerprint = self._terms.mark(fingerprint)
        self._jobs.create(self.job, self._kept)
        if self._key is None:
            self._owner = KeyOwner(self.job.id, fingerprint)
            return
        try:
            self._owner = self._claim(self._key, fingerprint)
        except Exception:
            self._forget()
            raise
        if self.is_repeat:
            self._forget()

    def renew(self) -> None:
        """Records that the key's request is still arriving."""
        if self._key is not None:
            self._keys.renew(self._key)

    def settle(self, fingerprint: str) -> None:
        """Records which request the key was claimed for."""
        if self._key is not None:
            self._keys.settle(self._key, self.job.id, self._terms.mark(fingerprint))

    def release(self) -> None:
        """Frees the key, unless it is an earlier job's: the request came to nothing."""
        if self._key is not None and self.is_open and not self.is_repeat:
            self._keys.release(self._key)

    def take_back(self) -> None:
        """Undoes `open`: nothing of the job was queued.

        If Redis is what failed, this raises as well: then the record stays.
        """
        self.release()
        self._forget()

    def answer(self, fingerprint: str) -> Accepted:
        """Returns the job that stands for the request.

        Raises:
            IdempotencyConflict: The key was sent with another request.
        """
        assert self._owner is not None
        if not self.is_repeat:
            return Accepted(self.job, is_new=True)
        check_same_request(self._owner, self._terms.mark(fingerprint))
        return Accepted(self._jobs.get(self._owner.job_id), is_new=False)

    def _claim(self, key: str, fingerprint: str) -> KeyOwner:
        owner = self._keys.claim(key, self.job.id, fingerprint)
        while owner.job_id != self.job.id and self._jobs.find(owner.job_id) is None:
            self._keys.release_from(key, owner)
            owner = self._keys.claim(key, self.job.id, fingerprint)
        return owner

    def _forget(self) -> None:
        self._jobs.forget(self.job, list(self._kept))
