"""What job records and the feed should say, in plain Python: the scripts' measure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import get_args

from support.results import stored_result

from twinlens.shared.errors import Problem
from twinlens.shared.messages import Item, JobStatus, Outcome
from twinlens.shared.redis.jobs import Job

DAY_S = 86_400
HOUR_S = 3_600
ARRIVAL_S = 20
FOR_EVER = -1  # as Redis says it


@dataclass
class Record:
    """A job as it should be, and what belongs to it."""

    job: Job
    sizes: list[int] = field(default_factory=list)  # pictures of each chunk
    items: dict[int, list[Item]] = field(default_factory=dict)  # of each chunk that is counted
    events: list[tuple[JobStatus, int, int]] = field(default_factory=list)
    n_fed: int = 0
    upload_error: Problem | None = None
    speeds: list[float] = field(default_factory=list)  # of each chunk, in pictures a second
    tries: dict[str, int] = field(default_factory=dict)  # by part, of those that have not ended

    @property
    def is_open(self) -> bool:
        return self.job.status in {"queued", "running"}

    @property
    def takes_chunks(self) -> bool:
        return self.is_open and self.job.total is None

    @property
    def must_be_done(self) -> bool:
        is_one_step = self.job.kind == "delete" and not self.job.has_items
        return is_one_step and self.job.status == "running"

    @property
    def n_waiting(self) -> int:
        """Pictures in the backlog."""
        is_fed = self.job.kind in {"bulk", "reindex"} or self.job.has_items
        n_left = sum(self.sizes) - sum(map(len, self.items.values()))
        return n_left if self.is_open and is_fed else 0

    def announce(self, chunk: int = -1, n_failed: int = 0) -> None:
        self.job.revision += 1
        self.events.append((self.job.status, chunk, n_failed))

    def end(self, status: JobStatus, now: datetime, error: Problem | None) -> None:
        self.job.status, self.job.error, self.job.task = status, error, None
        self.job.finished_at = now
        self.job.expires_at = now + timedelta(seconds=self.job.ttl_s)
        if self.job.webhook is not None:
            self.job.webhook_at = now

    def end_if_counted(self, now: datetime, error: Problem | None = None) -> None:
        is_counted = self.job.total is not None and len(self.items) == len(self.sizes)
        if is_counted and self.job.kind != "reindex":
            error = error or self.upload_error or self.error_of_all
            self.end("failed" if error else "succeeded", now, error)

    @property
    def error_of_all(self) -> Problem | None:
        """Why all pictures of a job failed, if they did; here there is one reason."""
        problems = [item.error for items in self.items.values() for item in items]
        is_meant = self.job.kind == "bulk" or self.job.has_items
        if not is_meant or not problems or None in problems:
            return None
        problem = problems[0]
        assert problem is not None
        if len(problems) == 1:
            return problem
        detail = f"All {len(problems)} pictures failed: {problem.detail}"
        return problem.model_copy(update={"detail": detail})


class Model:
    """All jobs, and whose chunk is next."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0
        self.n_workers = 0
        self.records: dict[str, Record] = {}
        self.listed: dict[str, list[str]] = {"job": [], "search": []}  # the oldest first
        self.heard_of: set[str] = set()  # uploads that still arrive, as far as is known
        # Libraries, and the jobs of each, that have chunks to give: who is next comes first.
        self.turns: dict[str, list[str]] = {}
        self.fed: dict[tuple[str, int], float] = {}
        self.timed: list[str] = []  # jobs with a deadline, the first first

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.now_s, UTC)

    def open_record(self, job_id: str) -> Record | None:
        record = self.records.get(job_id)
        return record if record and record.is_open else None

    def is_late(self, job_id: str) -> bool:
        """Whether a job's deadline has passed."""
        deadline_at = self.records[job_id].job.deadline_at
        return deadline_at is not None and deadline_at < self.now

    @property
    def late(self) -> list[str]:
        return [job_id for job_id in self.timed if self.is_late(job_id)]

    def is_gone(self, job_id: str) -> bool:
        """Whether a job's life is over."""
        expires_at = self.records[job_id].job.expires_at
        return expires_at is not None and expires_at < self.now

    # What happens to jobs.

    def create(self, job: Job) -> None:
        self.records[job.id] = Record(job, sizes=[1] * job.n_chunks)
        if job.kind == "search":
            self.listed["search"] = [
                job_id
                for job_id in self.listed["search"]
                if self.created_at(job_id) > self.now_s - HOUR_S
            ]
        self.listed["search" if job.kind == "search" else "job"].append(job.id)
        if job.kind == "bulk":
            self.heard_of.add(job.id)
        if job.deadline_at is not None:
            self.timed.append(job.id)

    def created_at(self, job_id: str) -> float:
        return self.records[job_id].job.created_at.timestamp()

    def forget(self, job_id: str) -> None:
        record = self.records.pop(job_id)
        self.listed["search" if record.job.kind == "search" else "job"].remove(job_id)
        self.heard_of.discard(job_id)
        if job_id in self.timed:
            self.timed.remove(job_id)

    def start(self, job_id: str) -> bool:
        record = self.open_record(job_id)
        if record is not None and self.is_late(job_id) and not record.must_be_done:
            return False
        if record is not None and record.job.status == "queued":
            record.job.status, record.job.started_at = "running", self.now
            record.announce()
        return record is not None

    def begin_try(self, job_id: str, part: str) -> int:
        record = self.open_record(job_id)
        if record is None:
            return 1
        record.tries[part] = record.tries.get(part, 0) + 1
        return record.tries[part]

    def end_try(self, job_id: str, part: str) -> None:
        if record := self.open_record(job_id):
            record.tries.pop(part, None)

    def finish(
        self, job_id: str, status: JobStatus, error: Problem | None, result: str | None
    ) -> None:
        record = self.open_record(job_id)
        if record is not None:
            record.end(status, self.now, error)
            record.job.result = stored_result(job_id, result).text if result else None
            record.announce()

    def cancel(self, job_id: str, error: Problem | None = None) -> bool:
        record = self.records.get(job_id)
        if record is None:
            return False
        was_open = record.is_open
        if not record.must_be_done:
            self.finish(job_id, "failed" if error else "cancelled", error, None)
        return record.job.status == "cancelled" or (was_open and not record.is_open)

    def add_chunk(self, job_id: str, chunk: int, n_pictures: int) -> bool:
        record = self.records.get(job_id)
        if record is None or not record.takes_chunks:
            return False
        if chunk < len(record.sizes):
            return True
        record.sizes.append(n_pictures)
        record.job.n_chunks += 1
        record.job.received += n_pictures
        record.announce()
        waiting = self.turns.setdefault(record.job.library, [])
        if job_id not in waiting:
            waiting.append(job_id)
        return True

    def seal(self, job_id: str, error: Problem | None) -> None:
        record = self.records.get(job_id)
        if record is not None and record.takes_chunks:
            record.job.total, record.upload_error = record.job.received, error
            record.job.task = None
            record.end_if_counted(self.now)
            record.announce()

    def count(self, job_id: str, chunk: int, items: list[Item]) -> None:
        self.fed.pop((job_id, chunk), None)
        record = self.open_record(job_id)
        if record is None or chunk in record.items:
            return
        job, record.items[chunk] = record.job, items
        before = job.counted_at or job.started_at
        assert before is not None
        record.speeds.append(len(items) / (self.now - before).total_seconds())
        for outcome in get_args(Outcome):
            n_more = [item.outcome for item in items].count(outcome)
            setattr(job, outcome, getattr(job, outcome) + n_more)
        job.n_chunks_done, job.counted_at = len(record.items), self.now
        record.end_if_counted(self.now, items[0].error if job.kind == "embed" else None)
        record.announce(chunk, [item.outcome for item in items].count("failed"))

    # What is next.

    def take(self) -> list[tuple[str, int]]:
        """Gives chunks until enough are on their way: libraries take turns, and their jobs."""
        taken = []
        while self.turns and len(self.fed) < 2 * self.n_workers + 2:
            library = next(iter(self.turns))
            waiting = self.turns.pop(library)
            record = self.records[waiting.pop(0)]
            if record.is_open:
                taken.append((record.job.id, record.n_fed))
                self.fed[taken[-1]] = self.now_s
                record.n_fed += 1
                if record.n_fed < len(record.sizes):
                    waiting.append(record.job.id)
            if waiting:
                self.turns[library] = waiting
        return taken

    # What there is.

    @property
    def n_waiting(self) -> int:
        return sum(record.n_waiting for record in self.records.values())

    @property
    def arriving(self) -> list[str]:
        return [job for job in self.open_ids("bulk") if self.records[job].takes_chunks]

    @property
    def tasks(self) -> dict[str, float]:
        """The jobs of one task that has not ended: where it was queued, and since when."""
        jobs = [record.job for record in self.records.values()]
        return {
            f"{job.task.queue}:{job.id}": self.created_at(job.id)
            for job in jobs
            if job.task is not None
        }

    @property
    def owed(self) -> dict[str, float]:
        """The jobs whose end is to be told, and since when."""
        jobs = [record.job for record in self.records.values()]
        return {job.id: job.webhook_at.timestamp() for job in jobs if job.webhook_at is not None}

    def open_ids(self, *kinds: str) -> list[str]:
        """Returns the jobs of some kinds that have not ended, the oldest first."""
        jobs = [record.job for record in self.records.values() if record.is_open]
        return [job.id for job in jobs if job.kind in kinds]

    def timeline(self, ids: list[str]) -> list[tuple[str, float]]:
        return [(job_id, self.created_at(job_id)) for job_id in ids]

    def lives(self) -> dict[str, int]:
        """Returns every key of a single job, and how many seconds it was to be kept."""
        lives = {f"tl:job:{job_id}:arrival": ARRIVAL_S for job_id in self.heard_of}
        for job_id, record in self.records.items():
            ttl_s = FOR_EVER if record.is_open else record.job.ttl_s
            buried_s = DAY_S if record.job.kind == "search" else 30 * DAY_S
            lives[f"tl:job:{job_id}"] = FOR_EVER if record.is_open else ttl_s + buried_s
            if record.is_open and record.tries:
                lives[f"tl:job:{job_id}:tries"] = FOR_EVER
            if record.events:
                lives[f"tl:job:{job_id}:events"] = ttl_s
            if record.items:
                lives[f"tl:job:{job_id}:done"] = ttl_s
            for chunk in record.items:
                lives[f"celery-task-meta-{job_id}.{chunk}"] = record.job.ttl_s
            if record.job.result:
                lives[f"celery-task-meta-{job_id}"] = record.job.ttl_s
        return lives

    def speed_bounds(self, job_id: str) -> tuple[float, float] | None:
        """Returns between what a job's pictures a second are: those of its chunks, or exact."""
        record = self.records[job_id]
        job = record.job
        if job.started_at is None or job.counted_at is None:
            return None
        if record.is_open:
            return min(record.speeds), max(record.speeds)
        took_s = (job.counted_at - job.started_at).total_seconds()
        speed = sum(map(len, record.items.values())) / took_s
        return speed, speed
