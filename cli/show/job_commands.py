"""`twinlens jobs …`: the options. The work is done in `jobs.py`, imported when used."""

# ruff: noqa: PLC0415 (imports wait until they are used, so that --help takes 60 ms)
from __future__ import annotations

import click

from twinlens.cli.output import json_option
from twinlens.cli.parameters import url_option

_HELP = {"-h", "--help"}


class _ShowsUnlessTold(click.Group):
    """Takes what is no subcommand for what `show` is given: `twinlens jobs [ID]`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, *_HELP}:
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ShowsUnlessTold)
def jobs() -> None:
    """List jobs, show, cancel or retry one; `jobs [ID]` is `jobs show [ID]`."""


@jobs.command()
@click.argument("job_id", required=False, metavar="[ID]")
@click.option(
    "--limit",
    default=20,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="Number of jobs, or of failed pictures, to show.",
)
@click.option("--watch", "is_watched", is_flag=True, help="Wait until the job has ended.")
@json_option
@url_option
def show(job_id: str | None, limit: int, is_watched: bool, url: str) -> None:
    """List jobs, or show one with its failed pictures."""
    from twinlens.cli.show.jobs import show_job, show_jobs

    if job_id is not None:
        show_job(url, job_id, limit, is_watched=is_watched)
    elif is_watched:
        raise click.UsageError("--watch needs the ID of a job")
    else:
        show_jobs(url, limit)


@jobs.command()
@click.argument("job_id", metavar="ID")
@json_option
@url_option
def cancel(job_id: str, url: str) -> None:
    """Cancel a job. What is done stays; the rest never begins."""
    from twinlens.cli.show.jobs import cancel_job

    cancel_job(url, job_id)


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--watch", "is_watched", is_flag=True, help="Wait until the new job has ended.")
@json_option
@url_option
def retry(job_id: str, is_watched: bool, url: str) -> None:
    """Queue a job's failed pictures again, as a new job, and show that."""
    from twinlens.cli.show.jobs import retry_job

    retry_job(url, job_id, is_watched=is_watched)
