"""`twinlens index`: uploads pictures, and waits until they can be found."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from twinlens.cli.client import Client
from twinlens.cli.errors import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from twinlens.api.schemas import JobAnswer

# What a worker may serve; what is none of these is left where it is.
PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".gif", ".webp", ".tif", ".tiff", ".bmp", ".avif"}
)
ARCHIVE_TYPES = {
    ".zip": "application/zip",
    ".tar": "application/x-tar",
    ".tar.gz": "application/gzip",
    ".tgz": "application/gzip",
    ".tar.zst": "application/zstd",
}
# A batch's bytes are held in memory, and sent once more if the service is busy.
MAX_BATCH_FILES = 256
MAX_BATCH_BYTES = 64 * 1024 * 1024
MAX_SHOWN_FAILURES = 20
MB = 1_000_000


@dataclass
class Totals:
    """What became of the pictures."""

    n_indexed: int = 0
    n_there: int = 0
    n_failed: int = 0
    failures: list[str] = field(default_factory=list)
    took_s: float = 0.0

    @property
    def pictures_per_s(self) -> float:
        return (self.n_indexed + self.n_there) / self.took_s if self.took_s else 0.0

    def fail(self, name: str, reason: str) -> None:
        """Counts a picture that failed."""
        self.n_failed += 1
        self.failures.append(f"{name}: {reason}")

    def __str__(self) -> str:
        return (
            f"{self.n_indexed} indexed, {self.n_there} already there, {self.n_failed} failed;"
            f" {self.pictures_per_s:.1f} pictures/s"
        )


def run_index(paths: Sequence[Path], url: str, library: str) -> None:
    """Uploads, waits, and tells what became of it.

    Raises:
        CommandFailed: A picture failed, or the service is not there.
    """
    with Client(url) as client:
        totals = upload(client, paths, library)
    click.echo(str(totals))
    for line in totals.failures[:MAX_SHOWN_FAILURES]:
        click.echo(f"  {line}", err=True)
    if totals.n_failed > MAX_SHOWN_FAILURES:
        click.echo(f"  … and {totals.n_failed - MAX_SHOWN_FAILURES} more", err=True)
    if totals.n_failed:
        raise click.exceptions.Exit(1)


def upload(client: Client, paths: Sequence[Path], library: str) -> Totals:
    """Uploads pictures and archives, and returns when they are searchable or have failed."""
    began = time.monotonic()
    totals = Totals()
    files = find_files(paths)
    with _Bars(files.n_bytes) as bars:
        jobs = []
        for job in _send_all(client, files, library, totals, bars.add_sent):
            bars.add_accepted(job)
            jobs.append(job)
        for job in jobs:
            _add_up(client, bars.follow(client, job), totals)
    totals.took_s = time.monotonic() - began
    return totals


def archive_type(path: Path) -> str | None:
    """Returns the media type of an archive by its name; None of anything else."""
    name = path.name.lower()
    found = (kind for suffix, kind in ARCHIVE_TYPES.items() if name.endswith(suffix))
    return next(found, None)


class Files(NamedTuple):
    """What is to be uploaded: pictures in batches, each archive as one job."""

    pictures: list[Path]
    archives: list[Path]

    @property
    def n_bytes(self) -> int:
        return sum(_size_of(path) for path in [*self.pictures, *self.archives])


def find_files(paths: Iterable[Path]) -> Files:
    """Returns the pictures and the archives that paths name.

    In folders, whatever is hidden or no picture is passed over.

    Raises:
        CommandFailed: There are none.
    """
    pictures: list[Path] = []
    archives: list[Path] = []
    for path in paths:
        if path.is_dir():
            pictures += _pictures_in(path)
        elif archive_type(path):
            archives.append(path)
        else:
            pictures.append(path)
    if not pictures and not archives:
        raise CommandFailed(f"there is no picture in {', '.join(map(str, paths))}")
    return Files(list(dict.fromkeys(pictures)), list(dict.fromkeys(archives)))


def make_batches(
    sized: Iterable[tuple[Path, int]],
    max_files: int = MAX_BATCH_FILES,
    max_bytes: int = MAX_BATCH_BYTES,
) -> Iterator[list[Path]]:
    """Groups files, given with their sizes, under both limits; a larger file goes alone."""
    batch: list[Path] = []
    n_bytes = 0
    for path, size in sized:
        if batch and (len(batch) == max_files or n_bytes + size > max_bytes):
            yield batch
            batch, n_bytes = [], 0
        batch.append(path)
        n_bytes += size
    if batch:
        yield batch


def _pictures_in(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a str)
            if not name.startswith(".") and suffix in PICTURE_SUFFIXES:
                yield folder.__class__(parent, name)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # told when it is read
        return 0


def _send_all(
    client: Client,
    files: Files,
    library: str,
    totals: Totals,
    on_sent: Callable[[int], None],
) -> Iterator[JobAnswer]:
    """Uploads everything, and gives each job as it is accepted."""
    for batch in make_batches((path, _size_of(path)) for path in files.pictures):
        pictures = [*_read_pictures(batch, totals)]
        if pictures:
            yield client.add_pictures(pictures, library)
            on_sent(sum(len(content) for _, content in pictures))
    for archive in files.archives:
        yield client.add_archive(archive, archive_type(archive) or "", library, on_sent)


def _read_pictures(paths: Iterable[Path], totals: Totals) -> Iterator[tuple[str, bytes]]:
    for path in paths:
        try:
            yield path.name, path.read_bytes()
        except OSError as error:
            totals.fail(str(path), error.strerror or str(error))


def _add_up(client: Client, job: JobAnswer, totals: Totals) -> None:
    totals.n_indexed += job.progress.succeeded
    totals.n_there += job.progress.skipped
    n_missed = job.progress.failed
    room = MAX_SHOWN_FAILURES - len(totals.failures)
    if n_missed and room > 0:
        for item in client.failed_items(job.id, room):
            n_missed -= 1
            totals.fail(item.name, item.error.detail if item.error else "no reason is known")
    totals.n_failed += n_missed
    if job.status != "succeeded":
        reason = job.error.detail if job.error else "no reason is known"
        totals.fail(f"job {job.id}", f"{job.status}: {reason}")


class _Bars:
    """What was sent, in MB, and how many pictures are done, of those accepted so far."""

    def __init__(self, n_bytes: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._sent = self._progress.add_task("MB sent         ", total=n_bytes / MB)
        self._done = self._progress.add_task("pictures indexed", total=None)
        self._n_accepted = 0
        self._n_done = 0

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

    def add_sent(self, n_bytes: int) -> None:
        self._progress.advance(self._sent, n_bytes / MB)

    def add_accepted(self, job: JobAnswer) -> None:
        self._n_accepted += job.progress.total
        self._progress.update(self._done, total=self._n_accepted)

    def follow(self, client: Client, job: JobAnswer) -> JobAnswer:
        """Returns a job when it has ended; until then the bar moves."""
        while True:
            job = client.job(job.id, wait_s=0 if job.finished_at else 1)
            seen = job.progress
            n_here = seen.succeeded + seen.skipped + seen.failed
            self._progress.update(self._done, completed=self._n_done + n_here)
            if job.finished_at is not None:
                self._n_done += n_here
                return job
