"""What became of the pictures: counts, bars, and the jobs that have not ended yet."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from twinlens.cli.output import make_bars
from twinlens.cli.upload.passed import PassedOver
from twinlens.shared.names import printable

if TYPE_CHECKING:
    from types import TracebackType

    from twinlens.client.client import Client
    from twinlens.shared.answers import JobAnswer

MAX_SHOWN_FAILURES = 20
# Enough that workers never wait for an upload, and few enough that the service's queue stays short.
MAX_OPEN_JOBS = 32
MB = 1_000_000


@dataclass
class Totals:
    """What became of the pictures."""

    n_indexed: int = 0
    n_updated: int = 0
    n_there: int = 0
    n_failed: int = 0
    n_waiting: int = 0  # accepted but not done, when it was interrupted
    failures: list[str] = field(default_factory=list)
    passed: PassedOver = field(default_factory=PassedOver, compare=False)
    took_s: float = 0.0

    @property
    def n_done(self) -> int:
        return self.n_indexed + self.n_updated + self.n_there + self.n_failed

    @property
    def pictures_per_s(self) -> float:
        return (self.n_done - self.n_failed) / self.took_s if self.took_s else 0.0

    @property
    def counts(self) -> dict[str, object]:
        """What `--json` prints."""
        return {
            "indexed": self.n_indexed,
            "updated": self.n_updated,
            "already_there": self.n_there,
            "failed": self.n_failed,
            "waiting": self.n_waiting,
            "passed_over": self.passed.counts,
            "failures": self.failures,
            "took_s": self.took_s,
            "pictures_per_s": self.pictures_per_s,
        }

    def fail(self, name: str, reason: str) -> None:
        """Counts a picture that failed; the first ones are kept, to be shown."""
        self.n_failed += 1
        if len(self.failures) < MAX_SHOWN_FAILURES:
            self.failures.append(f"{printable(name)}: {reason}")

    def fail_file(self, error: OSError) -> None:
        """Counts what could not be opened."""
        self.fail(str(error.filename), error.strerror or str(error))

    def __str__(self) -> str:
        updated = f" {self.n_updated} updated," if self.n_updated else ""
        return (
            f"{self.n_indexed} indexed,{updated} {self.n_there} already there, {self.n_failed}"
            f" failed; {self.pictures_per_s:.1f} pictures/s"
        )


class Bars:
    """What was read, in MB, and how many pictures are done, of those known so far."""

    def __init__(self, n_bytes: int | None) -> None:
        """Begins at zero; if nothing is read, the first bar is not shown."""
        self._progress = make_bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._read = self._progress.add_task(
            "MB read      ", total=(n_bytes or 0) / MB, visible=n_bytes is not None
        )
        self._done = self._progress.add_task("pictures done", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def add_read(self, n_bytes: int) -> None:
        """Moves the first bar. Any thread may call it."""
        self._progress.advance(self._read, n_bytes / MB)

    def say(self, line: str) -> None:
        """Prints a line above the bars."""
        self._progress.console.print(Text(line), soft_wrap=True)

    def show(self, n_done: int, n_known: int) -> None:
        """Moves the second bar."""
        self._progress.update(self._done, completed=n_done, total=max(n_done, n_known) or None)


@dataclass
class _Open:
    """A job that has not ended, as far as we know. Pictures in archives were not counted before."""

    job: JobAnswer
    is_archive: bool

    @property
    def n_seen(self) -> int:
        progress = self.job.progress
        if progress.total is None and progress.compared:
            return progress.compared
        return progress.succeeded + progress.updated + progress.skipped + progress.failed

    @property
    def n_pictures(self) -> int:
        # Null while the service still reads, or compares.
        return self.job.progress.total or self.n_seen


class Tracker:
    """Follows jobs in the order in which they were accepted, and counts their outcomes."""

    def __init__(self, client: Client, totals: Totals, bars: Bars, n_pictures: int) -> None:
        """Begins with no job.

        Args:
            client: The service that has the jobs.
            totals: Where outcomes are counted.
            bars: Where they are shown.
            n_pictures: How many there are to upload, those in archives not counted.
        """
        self._client = client
        self._totals = totals
        self._bars = bars
        self._n_known = n_pictures
        self._open: deque[_Open] = deque()

    @property
    def n_waiting(self) -> int:
        """How many pictures are accepted, but not known to be done."""
        # Also those whose upload was answered, but not told to us any more.
        of_client = {job.id: _Open(job, is_archive=False) for job in self._client.open_jobs}
        all_open = of_client | {one.job.id: one for one in self._open}
        return sum(one.n_pictures - one.n_seen for one in all_open.values())

    def add(self, job: JobAnswer, *, is_archive: bool) -> None:
        """Follows a job; waits for the oldest where there are too many."""
        self._open.append(_Open(job, is_archive))
        while len(self._open) > MAX_OPEN_JOBS:
            self._look_at_oldest(wait_s=1)

    def look(self) -> None:
        """Counts the jobs that have ended, up to the first that has not."""
        while self._open and self._look_at_oldest():
            pass
        self._show()

    def wait(self) -> None:
        """Waits until all have ended."""
        while self._open:
            self._look_at_oldest(wait_s=1)

    def _look_at_oldest(self, wait_s: int = 0) -> bool:
        oldest = self._open[0]
        oldest.job = self._client.job(oldest.job.id, wait_s=wait_s)
        has_ended = oldest.job.finished_at is not None
        if has_ended:
            self._add_up(self._open.popleft())
        self._show()
        return has_ended

    def _show(self) -> None:
        n_done = self._totals.n_done + sum(one.n_seen for one in self._open)
        n_in_archives = sum(one.n_pictures for one in self._open if one.is_archive)
        self._bars.show(n_done, self._n_known + n_in_archives)

    def _add_up(self, ended: _Open) -> None:
        job, totals = ended.job, self._totals
        if ended.is_archive:
            self._n_known += ended.n_seen
        totals.n_indexed += job.progress.succeeded
        totals.n_updated += job.progress.updated
        totals.n_there += job.progress.skipped
        totals.passed.add_archived(job.progress.passed_over)
        n_missed = job.progress.failed
        room = MAX_SHOWN_FAILURES - len(totals.failures)
        if n_missed and room > 0:
            for item in self._client.failed_items(job.id, room):
                n_missed -= 1
                totals.fail(item.name, item.error.detail if item.error else "no reason is known")
        totals.n_failed += n_missed
        # Where all of its pictures failed, they are counted.
        if job.status != "succeeded" and job.progress.failed < job.progress.received:
            reason = job.error.detail if job.error else "no reason is known"
            totals.fail(f"job {job.id}", f"{job.status}: {reason}")


def follow(client: Client, job: JobAnswer, totals: Totals) -> None:
    """Shows a bar of a job's pictures until it has ended, and counts the outcome."""
    with Bars(n_bytes=None) as bars:
        tracker = Tracker(client, totals, bars, n_pictures=0)
        # Its pictures were not counted before, like those of an archive.
        tracker.add(job, is_archive=True)
        tracker.wait()


def watch(client: Client, job: JobAnswer) -> JobAnswer:
    """Shows a bar of a job's pictures until it has ended, and returns it as it is then."""
    with Bars(n_bytes=None) as bars:
        while job.finished_at is None:
            one = _Open(job, is_archive=True)
            bars.show(one.n_seen, one.n_pictures)
            job = client.job(job.id, wait_s=1)
    return job
