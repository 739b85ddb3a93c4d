"""The command line: commands and options. The work is done in other modules, imported when used."""

# ruff: noqa: PLC0415 (imports wait until they are used, so that --help takes 60 ms)
from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twinlens import __version__
from twinlens.cli.backup.commands import backup, restore
from twinlens.cli.keys.commands import keys
from twinlens.cli.output import INTERRUPTED, json_option, say
from twinlens.cli.parameters import (
    ExampleParameter,
    FileToWrite,
    NamedNumber,
    RegionParameter,
    complete_library,
    library_option,
    models_option,
    read_as,
    url_option,
)
from twinlens.cli.settings import keep_private, read_settings
from twinlens.cli.show.image_commands import images
from twinlens.cli.show.job_commands import jobs
from twinlens.cli.show.library_commands import libraries
from twinlens.cli.workbench.evaluate_commands import compare_models, evaluate_models, tune
from twinlens.cli.workbench.model_commands import models
from twinlens.cli.workbench.pull_commands import pull_model

if TYPE_CHECKING:
    from twinlens.cli.service.up import MilvusKind


class _Commands(click.Group):
    """Turns the project's own errors into one line and an exit status."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            # What the service goes on with is noted by the client.
            for line in ("interrupted", *getattr(error, "__notes__", ())):
                say(f"twinlens: {line}", is_error=True)
            raise click.exceptions.Exit(INTERRUPTED) from None
        except Exception as error:
            from twinlens.cli.errors import CommandFailed
            from twinlens.client.errors import RequestFailed
            from twinlens.shared.errors import TwinlensError

            if isinstance(error, TwinlensError | RequestFailed):
                raise CommandFailed(str(error)) from None
            raise


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="twinlens")
def main() -> None:
    """Self-hosted image search that asks several models at once."""


@main.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder for all data.")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 for any free one.  [default: 8000]",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Number of bulk processes.  [default: one per core, on a GPU 1]",
)
@click.option("--redis-url", help="Use this Redis or Valkey instead of starting one.")
@click.option("--milvus-uri", help="Use this Milvus instead of starting one.")
@click.option(
    "--milvus",
    type=click.Choice(["lite", "standalone"]),
    help="Milvus to start: Milvus Lite, for up to about 50,000 pictures, or the real one.  "
    "[default: lite]",
)
def up(workers: int | None, milvus: MilvusKind | None, **options: object) -> None:
    """Run the whole service in the foreground; Ctrl-C stops it."""
    from twinlens.cli.service.up import run_up

    keep_private()
    run_up(read_settings(options), workers, milvus)


@main.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.  [default: 8000]")
def api(**options: object) -> None:
    """Run the API alone; settings come from the environment."""
    from twinlens.cli.service.serve import serve

    keep_private()
    serve(read_settings(options))


@main.command()
@click.option("--lanes", required=True, help="Lanes to work on: search, bulk, or search,bulk.")
@click.option(
    "--processes",
    type=click.IntRange(1),
    help="Number of processes.  [default: bulk one per core, search 1; on a GPU 1]",
)
def worker(lanes: str, processes: int | None) -> None:
    """Run a worker alone; settings come from the environment."""
    # Each process computes on one core; more threads would only wait for each other. Read as numpy
    # is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from twinlens.shared.queue import LANES

    by_name = {str(lane): lane for lane in LANES}
    names = lanes.split(",")
    if not set(names) <= by_name.keys():
        raise click.BadParameter(f"the lanes are {', '.join(LANES)}", param_hint="--lanes")
    keep_private()
    read_settings({})
    from twinlens.workers.process.app import run_worker

    run_worker([by_name[name] for name in names], processes)


@main.command()
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, allow_dash=True, path_type=Path),
    metavar="PATH…",
)
@click.option(
    "--coco",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.json",
    help="COCO annotations: the categories on a picture become its metadata.",
)
@click.option(
    "--parallel",
    "n_threads",
    default=4,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Number of uploads at the same time.",
)
@click.option(
    "--exif/--no-exif",
    "is_exif_read",
    default=True,
    show_default=True,
    help="When a picture was taken, and with what, becomes its metadata: taken_at, camera.",
)
@click.option(
    "--gps",
    "is_place_read",
    is_flag=True,
    help="Where it was taken becomes its metadata too: latitude, longitude, altitude.",
)
@click.option(
    "-v", "--verbose", "is_verbose", is_flag=True, help="Name each file that is passed over."
)
@json_option
@url_option
@library_option
def index(
    paths: tuple[Path, ...],
    url: str,
    library: str,
    n_threads: int,
    coco: Path | None,
    is_exif_read: bool,
    is_place_read: bool,
    is_verbose: bool,
) -> None:
    """Upload folders, pictures, archives (zip, tar) and listings (ndjson), and wait.

    `-` is a picture from standard input. Pictures in folders are known by what they hold, and
    named by their path below the folder.

    It ends when all pictures can be found. If it was interrupted, run it again: it skips the
    pictures that are already there.
    """
    from twinlens.cli.upload.index import run_index

    if is_place_read and not is_exif_read:
        raise click.UsageError("--gps needs EXIF; leave out --no-exif")
    run_index(
        paths,
        url,
        library,
        n_threads,
        coco,
        is_exif_read=is_exif_read,
        is_place_read=is_place_read,
        is_verbose=is_verbose,
    )


@main.command()
@click.argument("examples", nargs=-1, type=ExampleParameter(), metavar="[FILE]…")
@click.option(
    "--unlike",
    multiple=True,
    type=ExampleParameter(),
    metavar="FILE",
    help="Picture of what to avoid; repeatable.",
)
@click.option(
    "--text",
    help="What to find, in words, beside FILE or alone; needs a model with a text encoder.",
)
@click.option("--negative-text", help="What to avoid, in words, beside FILE or --text.")
@click.option(
    "--region", type=RegionParameter(), help="Search with this part of FILE; edges from 0 to 1."
)
@click.option("--near", is_flag=True, help="Find copies and edits of FILE.")
@click.option(
    "-k", default=10, show_default=True, type=click.IntRange(1, 1000), help="Number of hits."
)
@click.option("--offset", default=0, type=click.IntRange(0), help="Skip this many hits.")
@models_option
@click.option(
    "--fusion",
    type=click.Choice(["calibrated", "weighted", "rrf", "max", "min"]),
    default="calibrated",
    show_default=True,
    help="How to combine the models' distances into one score.",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    type=NamedNumber(),
    help="Weight of a model in the fusion; repeatable.",
)
@click.option(
    "--rerank",
    type=click.Choice(["neighbours", "none"]),
    default="neighbours",
    show_default=True,
    help="Whether to move up hits that are also near each other.",
)
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="In mode near, whether to prove which hits are copies, and move those up.",
)
@click.option(
    "--filter", help="""Only pictures that fit, e.g. 'city == "Paris" and width > 1000'."""
)
@click.option(
    "--min-score", default=0.0, type=click.FloatRange(0, 1), help="Drop hits that score less."
)
@click.option(
    "--max-distance",
    multiple=True,
    type=NamedNumber(),
    help="Drop hits farther away under a model (IP, COSINE: less similar); repeatable.",
)
@click.option("--group-by", metavar="FIELD", help="Keep the best hit of each value of this field.")
@click.option("--exclude", multiple=True, metavar="ID", help="Image to leave out; repeatable.")
@click.option("--save", type=FileToWrite(".png"), help="Write a contact sheet, PNG.")
@click.option("--open", "is_opened", is_flag=True, help="Open the contact sheet.")
@json_option
@url_option
@library_option
def search(
    examples: tuple[Path | str, ...],
    unlike: tuple[Path | str, ...],
    url: str,
    save: Path | None,
    is_opened: bool,
    near: bool,
    text: str | None,
    negative_text: str | None,
    models: str | None,
    weights: tuple[tuple[str, float], ...],
    max_distance: tuple[tuple[str, float], ...],
    **query: object,
) -> None:
    """Find the pictures nearest to FILE, to words, or to both.

    FILE may be the id of an image of the library as well, or `-` for standard input. Several are
    examples of the same thing. "This, but red" is FILE with --text red.
    """
    from twinlens.cli.show.search import read_query, run_search

    if not examples and text is None:
        raise click.UsageError("give FILE, --text or both; --unlike and --negative-text need them")
    if near and (text, negative_text) != (None, None):
        raise click.UsageError("--near looks for copies of FILE; leave it out, or the words")
    wanted = read_query(
        positive=[one for one in examples if isinstance(one, str)],
        negative=[one for one in unlike if isinstance(one, str)],
        mode="near" if near else "similar",
        text=text,
        negative_text=negative_text,
        models=_names(models),
        weights=dict(weights),
        max_distance=dict(max_distance),
        **query,
    )
    files, avoided = ([one for one in some if isinstance(one, Path)] for some in (examples, unlike))
    run_search(files, avoided, wanted, url, save, is_opened=is_opened)


@main.command()
@click.argument("first", type=ExampleParameter(), metavar="A")
@click.argument("second", type=ExampleParameter(), metavar="B")
@models_option
@json_option
@url_option
@library_option
def compare(
    first: Path | str, second: Path | str, models: str | None, url: str, library: str
) -> None:
    """Show how near two pictures are: files, or ids of images in the library."""
    from twinlens.cli.show.duplicates import run_compare

    run_compare((first, second), url, library, _names(models))


@main.command()
@click.option("--max-distance", type=int, help="Most bits in which hashes may differ.")
@click.option(
    "--verify",
    is_flag=True,
    help="Look for what is cropped, turned, mirrored or on a canvas, too: some 0.1 s a picture.",
)
@click.option(
    "--limit",
    default=50,
    show_default=True,
    type=click.IntRange(0),
    help="Number of groups to show.",
)
@click.option(
    "--save",
    type=FileToWrite(".json"),
    help="Write all groups, as ids, to this JSON file.",
)
@json_option
@url_option
@library_option
def duplicates(url: str, limit: int, save: Path | None, **query: object) -> None:
    """Find groups of copies and edits of the same picture, the largest first."""
    from twinlens.cli.show.duplicates import run_duplicates
    from twinlens.shared.queries import DuplicatesQuery

    run_duplicates(read_as(DuplicatesQuery, **query), url, limit, save)


@main.command()
@click.option("--check", is_flag=True, help="Tell what differs, and change nothing.")
@click.option(
    "--library",
    shell_complete=complete_library,
    help="Name of the library.  [default: all of them]",
)
@click.option(
    "--remove-orphans",
    is_flag=True,
    help="Remove bytes that nothing names, if they are older than a day.",
)
@json_option
@url_option
def reconcile(url: str, **asked: object) -> None:
    """Compare disk, Redis and Milvus, and bring back what one of them has lost.

    It can be run while the service is used, and again. With --check, the exit status is 1 where
    something differs.
    """
    from twinlens.cli.show.reconcile import run_reconcile
    from twinlens.shared.answers import ReconcileQuery

    run_reconcile(url, read_as(ReconcileQuery, **asked))


@main.command()
@json_option
@url_option
def stats(url: str) -> None:
    """Show the workers, their speed, and what is waiting."""
    from twinlens.cli.show.stats import show_stats

    show_stats(url)


for command in (
    images,
    jobs,
    keys,
    libraries,
    models,
    evaluate_models,
    tune,
    compare_models,
    backup,
    restore,
):
    main.add_command(command)
models.add_command(pull_model)


@main.command()
@click.option(
    "--data-dir",
    default=".demo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for all data.",
)
@click.option(
    "--port",
    default=0,
    type=click.IntRange(0, 65535),
    help="Port to listen on.  [default: any free one]",
)
@click.option("--keep", is_flag=True, help="Keep running until Ctrl-C.")
def demo(data_dir: Path, port: int, keep: bool) -> None:
    """Start everything, index real photos, search, and show the result."""
    from twinlens.cli.demo import run_demo

    run_demo(data_dir, port, keep=keep)


def _names(text: str | None) -> list[str] | None:
    return text.split(",") if text else None


if __name__ == "__main__":
    main()
