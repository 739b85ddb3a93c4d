"""Runs a backup or a restore beside a service, and shows what became of it."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from redis import RedisError
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from twinlens.api.accepting.terms import Terms
from twinlens.api.services import build_services
from twinlens.cli.errors import CommandFailed, CommandRefused
from twinlens.cli.output import make_bars, say, show
from twinlens.cli.settings import owner_unlike_root
from twinlens.cli.words import counted
from twinlens.models.registry import Registry
from twinlens.shared.answers import ReconcileQuery
from twinlens.shared.blobs import BlobStore
from twinlens.shared.journal import Journal
from twinlens.shared.kept_libraries import KeptLibraries
from twinlens.shared.redis.catalog import Catalog
from twinlens.shared.redis.client import connect
from twinlens.workers.backup.folder import BackupFolder, BackupWriter
from twinlens.workers.backup.restoring import Chosen, Restoring
from twinlens.workers.backup.saving import Saving
from twinlens.workers.backup.stores import Stores
from twinlens.workers.library.journaling import Journaling
from twinlens.workers.milvus.vectors import Vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rich.progress import Progress

    from twinlens.shared.libraries import Library
    from twinlens.shared.settings import Settings
    from twinlens.workers.backup.layout import Contents
    from twinlens.workers.backup.restoring import Restored
    from twinlens.workers.backup.saving import Saved

MAX_SHOWN = 20
# Redis may be started again meanwhile: that takes seconds.
N_RETRIES = 5


def run_backup(settings: Settings, folder: Path, *, is_verifying: bool) -> None:
    """Writes a backup.

    Args:
        settings: The service's.
        folder: Where to.
        is_verifying: Whether what is there already is read, and written again if damaged.

    Raises:
        CommandFailed: It is not whole; or it is, and lacks what the service lacks.
    """
    began = time.monotonic()
    with _beside(settings, folder) as stores:
        writer = BackupWriter(folder, is_verifying=is_verifying)
        with writer.writing(), _bar("backing up") as bar:
            bar.begin(sum(stores.catalog.count(one.id) for one in stores.catalog.libraries()))
            saved = Saving(stores, writer, bar.advance).save()
    told = {
        "libraries": saved.n_libraries,
        "images": saved.n_images,
        "copied": saved.n_copied,
        "without_vectors": saved.n_without,
        "failures": saved.failures,
        "took_s": time.monotonic() - began,
    }
    show(told, lambda: _print_saved(saved, writer.root))
    _fail(saved.failures)


def run_restore(settings: Settings, folder: Path, names: Sequence[str], into: str | None) -> None:
    """Restores libraries of a backup.

    Args:
        settings: The service's.
        folder: The backup.
        names: Which libraries; all by default.
        into: How the library is to be called, where it is one.

    Raises:
        CommandRefused: The backup has no such library, or several where one is meant.
        CommandFailed: A part does not answer, or something of the backup is damaged.
    """
    began = time.monotonic()
    _check_user(settings)
    with _beside(settings, settings.data_dir) as stores:
        backup = BackupFolder(folder)
        with backup.reading(), _bar("restoring") as bar:
            restoring = Restoring(stores, backup, settings, embed_by(settings), bar.advance)
            chosen = _choose(restoring.contents, names, into)
            restoring.check(chosen)
            bar.begin(sum(one.saved.n_images for one in chosen))
            restored = restoring.restore(chosen)
    told = {
        "libraries": [one.name for one in chosen],
        "restored": restored.n_restored,
        "already_there": restored.n_there,
        "carried": restored.n_carried,
        "embedded_again": restored.n_lacking,
        "jobs": restored.jobs,
        "notes": restored.notes,
        "failures": restored.failures,
        "took_s": time.monotonic() - began,
    }
    show(told, lambda: _print_restored(restored, chosen))
    _fail(restored.failures)


def embed_by(settings: Settings) -> Callable[[Library], str]:
    """Returns what queues a job that embeds all that a library lacks."""
    reconciliations = build_services(settings).reconciliations

    def embed(library: Library) -> str:
        [job] = reconciliations.ask(ReconcileQuery(library=library.name), Terms())
        return job.id

    return embed


def _check_user(settings: Settings) -> None:
    """Refuses to write for root what another user's service must read.

    Raises:
        CommandRefused: We are root, and the service is not.
    """
    if owner := owner_unlike_root(settings.data_dir):
        raise CommandRefused(
            f"{settings.data_dir} is of user {owner}, and what root writes there the service could"
            " not read: run it as that user"
        )


class _Bar:
    """How many images are done; nothing is drawn unless it is a terminal."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=None)

    def begin(self, n_images: int) -> None:
        self._progress.update(self._task, total=n_images)

    def advance(self, n_images: int) -> None:
        self._progress.advance(self._task, n_images)


@contextlib.contextmanager
def _bar(title: str) -> Iterator[_Bar]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with make_bars(TextColumn("{task.description}"), *columns) as progress:
        yield _Bar(progress, title)


@contextlib.contextmanager
def _beside(settings: Settings, written: Path) -> Iterator[Stores]:
    """Gives what a running service keeps.

    Args:
        settings: The service's.
        written: Where the command writes.

    Raises:
        CommandFailed: Redis does not answer, or a file cannot be read or written.
    """
    try:
        with connect(settings.redis_url, n_retries=N_RETRIES) as redis:
            redis.ping()
            blobs = BlobStore(settings.blob_dir)
            kept = KeptLibraries(blobs)
            catalog = Catalog(redis, kept)
            if not any(map(kept.has, catalog.libraries())):
                raise CommandRefused(
                    f"{settings.data_dir} is not the folder of this service's data, or the service"
                    " is not running: start it, and name its folder with --data-dir"
                )
            yield Stores(
                catalog=catalog,
                blobs=blobs,
                vectors=Vectors(settings),
                registry=Registry(settings.models_dir),
                journaling=Journaling(catalog=catalog, journal=Journal(blobs)),
            )
    except RedisError as error:
        raise CommandFailed(
            f"Redis does not answer ({error}): the service must be running, and --data-dir or"
            " --redis-url say where"
        ) from error
    except OSError as error:
        raise CommandFailed(
            f"{error.filename or written}: {error.strerror or error}; what is done stays done: run"
            " it again, and it goes on"
        ) from error


def _choose(contents: Contents, names: Sequence[str], into: str | None) -> list[Chosen]:
    by_name = {library.name: library for library in contents.libraries}
    if unknown := [name for name in names if name not in by_name]:
        there = ", ".join(by_name) or "none"
        raise CommandRefused(f"the backup has no library {unknown[0]!r}; it has: {there}")
    chosen = [by_name[name] for name in dict.fromkeys(names or by_name)]
    if into is None:
        return [Chosen(library, library.name) for library in chosen]
    if len(chosen) != 1:
        raise CommandRefused("--into is for one library; name it with --library")
    return [Chosen(chosen[0], into)]


def _print_saved(saved: Saved, folder: Path) -> None:
    libraries = "1 library" if saved.n_libraries == 1 else f"{saved.n_libraries} libraries"
    images = counted(saved.n_images, "picture")
    say(f"{libraries}, {images} in {folder}: {saved.n_copied:,} copied, the rest was there")
    if saved.n_without:
        lost = counted(saved.n_without, "embedding")
        say(f"{lost} that Milvus does not have will be computed when it is restored")


def _print_restored(restored: Restored, chosen: Sequence[Chosen]) -> None:
    names = ", ".join(one.name for one in chosen) or "no library"
    say(
        f"{names}: {counted(restored.n_restored, 'picture')} restored, {restored.n_there:,} already"
        f" there; {counted(restored.n_carried, 'embedding')} carried"
    )
    for line in restored.notes:
        say(f"  {line}")
    for job_id in restored.jobs:
        say(
            f"  {counted(restored.n_lacking, 'picture')} lack embeddings, which job {job_id}"
            f" computes: twinlens jobs {job_id} --watch"
        )


def _fail(failures: Sequence[str]) -> None:
    """Ends the command if something failed.

    Raises:
        CommandFailed: Something did.
    """
    for line in failures[:MAX_SHOWN]:
        say(f"  {line}", is_error=True)
    if len(failures) > MAX_SHOWN:
        say(f"  … and {len(failures) - MAX_SHOWN} more", is_error=True)
    if failures:
        raise CommandFailed(f"{counted(len(failures), 'failure')}; all else is done")
