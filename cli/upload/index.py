"""`twinlens index`: uploads pictures, and waits until they can be found.

    files ─▶ batches ─▶ on threads: read, hash, ask what is missing, upload ─▶ jobs ─▶ totals

Nothing is noted on this side: what the service already has is not sent again, so a command that
was interrupted goes on where it stopped when it is run again.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import click

from twinlens.cli.errors import CommandFailed
from twinlens.cli.output import say, show
from twinlens.cli.upload.coco import read_coco
from twinlens.cli.upload.exif import exif_metadata
from twinlens.cli.upload.parallel import run_parallel
from twinlens.cli.upload.passed import PassedOver
from twinlens.cli.upload.plan import Plan, make_batches
from twinlens.cli.upload.sending import Sender, SentBatch
from twinlens.cli.upload.tracking import MAX_SHOWN_FAILURES, Bars, Totals, Tracker
from twinlens.client.client import Client
from twinlens.client.errors import RequestFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from twinlens.shared.messages import Metadata

N_THREADS = 4
# A service that is started again, with all of its parts, is back by then.
OUTAGE_S = 60


def run_index(
    paths: Sequence[Path],
    url: str,
    library: str,
    n_threads: int,
    coco: Path | None,
    *,
    is_exif_read: bool,
    is_place_read: bool,
    is_verbose: bool,
) -> None:
    """Uploads, waits, and prints what became of the pictures.

    Raises:
        CommandFailed: The service does not answer, or the paths or annotations cannot be read.
        Exit: A picture failed.
        KeyboardInterrupt: The user interrupted; its notes name the jobs that go on.
    """
    totals, annotations = Totals(), None
    try:
        with Client(url, outage_s=OUTAGE_S) as client:
            # Fails at once where nothing answers, or there is no such library.
            client.missing([], library)
            annotations = None if coco is None else read_coco(coco)
            plan = Plan(paths, annotations, takes_archives=not is_place_read)
            read_exif = partial(exif_metadata, with_place=is_place_read) if is_exif_read else None
            _upload(
                client,
                plan,
                library,
                n_threads,
                totals,
                read_exif,
                # Else what was changed by hand since stays.
                is_updating=annotations is not None or is_place_read,
                is_verbose=is_verbose,
            )
    except (KeyboardInterrupt, CommandFailed, RequestFailed):
        if totals.took_s:
            _show_interrupted(totals)
        raise
    _show_totals(totals)
    if annotations is not None:
        say(str(annotations))
    if totals.n_failed:
        raise click.exceptions.Exit(1)


def upload(
    client: Client,
    paths: Sequence[Path],
    library: str,
    n_threads: int = N_THREADS,
    totals: Totals | None = None,
) -> Totals:
    """Uploads pictures and archives, and returns when they are searchable or have failed.

    Args:
        client: The service.
        paths: Folders, pictures and archives.
        library: Where they go.
        n_threads: How many uploads run at the same time.
        totals: Where the pictures are counted; kept if this ends with an error.

    Raises:
        CommandFailed: There is nothing to upload, or the service does not answer as it should.
    """
    totals = Totals() if totals is None else totals
    _upload(client, Plan(paths), library, n_threads, totals, exif_metadata)
    return totals


def _upload(
    client: Client,
    plan: Plan,
    library: str,
    n_threads: int,
    totals: Totals,
    metadata_in: Callable[[bytes], Metadata] | None,
    *,
    is_updating: bool = False,
    is_verbose: bool = False,
) -> None:
    size = plan.measure()
    began = time.monotonic()
    with Bars(size.n_bytes) as bars:
        totals.passed = PassedOver(bars.say if is_verbose else None)
        tracker = Tracker(client, totals, bars, size.n_pictures)
        sender = Sender(client, library, bars.add_read, metadata_in, is_updating)
        try:
            for sent in run_parallel(_tasks(plan, sender, totals), n_threads):
                _count(sent, totals, tracker)
            tracker.wait()
        finally:
            totals.n_waiting = tracker.n_waiting
            totals.took_s = time.monotonic() - began


def _tasks(plan: Plan, sender: Sender, totals: Totals) -> Iterator[Callable[[], SentBatch]]:
    for archive in plan.archives:
        yield partial(sender.send_archive, archive)
    for batch in make_batches(plan.pictures(totals.fail_file, totals.passed)):
        yield partial(sender.send_batch, batch)


def _count(sent: SentBatch, totals: Totals, tracker: Tracker) -> None:
    totals.n_there += sent.n_there
    for failure in sent.failures:
        totals.fail(failure.name, failure.reason)
    if sent.job is not None:
        tracker.add(sent.job, is_archive=sent.is_archive)
    tracker.look()


def _show_totals(totals: Totals) -> None:
    show(totals.counts, lambda: _print_totals(totals))
    for line in totals.failures:
        say(f"  {line}", is_error=True)
    if totals.n_failed > MAX_SHOWN_FAILURES:
        say(f"  … and {totals.n_failed - MAX_SHOWN_FAILURES} more", is_error=True)


def _print_totals(totals: Totals) -> None:
    say(str(totals))
    if totals.passed:
        say(str(totals.passed))


def _show_interrupted(totals: Totals) -> None:
    _show_totals(totals)
    say(
        f"interrupted; {totals.n_waiting} more are uploaded and will still be indexed. Run the same"
        " command again to upload the rest.",
        is_error=True,
    )
