"""`twinlens reconcile`: what the stores of libraries say, one against the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from twinlens.cli.output import say, show
from twinlens.cli.show.tables import Column, named, print_table
from twinlens.cli.upload.tracking import watch
from twinlens.client.client import Client
from twinlens.shared.answers import Reconciliation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.shared.answers import DifferenceKind, JobAnswer, ReconcileQuery

# A service that is started again meanwhile goes on with its jobs.
OUTAGE_S = 300
WORDS: dict[DifferenceKind, str] = {
    "not_catalogued": "accepted, not catalogued",
    "not_embedded": "catalogued, embeddings missing",
    "no_content": "catalogued, bytes missing: post them again",
    "half_removed": "removed in part",
    "stray_vectors": "embeddings of what is not there",
    "orphans": "bytes that nothing names",
}


def run_reconcile(url: str, asked: ReconcileQuery) -> None:
    """Compares libraries, waits until what differs is repaired, and shows it.

    Raises:
        Exit: With `--check`, something differs; without, not all could be done.
    """
    with Client(url, outage_s=OUTAGE_S) as client:
        jobs = [watch(client, job) for job in client.reconcile(asked)]
    show({"items": jobs}, lambda: _print(jobs))
    undone = [job for job in jobs if job.status != "succeeded" or job.progress.failed]
    for job in undone:
        reason = job.error.detail if job.error else f"{job.progress.failed} pictures failed"
        say(f"{job.library}: {reason}; `twinlens jobs {job.id}` tells more", is_error=True)
    if undone or (asked.check and any(map(_differs, jobs))):
        raise click.exceptions.Exit(1)


def _differs(job: JobAnswer) -> bool:
    return isinstance(job.result, Reconciliation) and bool(job.result.differences)


def _print(jobs: Sequence[JobAnswer]) -> None:
    results = [(job, job.result) for job in jobs if isinstance(job.result, Reconciliation)]
    n_images = sum(result.compared for _, result in results)
    say(f"{n_images} images compared in {len(results)} libraries")
    rows = [
        (
            job.library,
            WORDS[kind],
            str(one.count),
            str(one.repaired + min(one.queued, job.progress.succeeded + job.progress.skipped)),
            ", ".join(one.examples),
        )
        for job, result in results
        for kind, one in result.differences.items()
    ]
    columns = (named("library"), "what differs", "images", "repaired", Column("e.g.", leave_out=1))
    if rows:
        print_table(columns, rows)
    else:
        say("nothing differs")
