"""The command line: what can be said. What is done is in the other modules, imported when used."""

# ruff: noqa: PLC0415 (imports wait until they are used, so that --help takes 60 ms)
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twinlens import __version__
from twinlens.cli.parameters import NamedNumber, Region, library_option, read_as, url_option
from twinlens.cli.show.libraries import libraries
from twinlens.cli.workbench.models import compare_models, evaluate_models, models

if TYPE_CHECKING:
    from twinlens.cli.service.up import MilvusKind
    from twinlens.shared.settings import Settings


class _Commands(click.Group):
    """Ends a command with one line where the project's own errors end it."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
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
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where everything is kept.")
@click.option("--host", help="Address to serve.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="0: any free one.  [default: 8000]")
@click.option("--workers", type=click.IntRange(1), help="Bulk processes.  [default: one a core]")
@click.option("--redis-url", help="A Redis or Valkey that runs already.")
@click.option("--milvus-uri", help="A Milvus that runs already.")
@click.option(
    "--milvus",
    type=click.Choice(["lite", "standalone"]),
    help="Which Milvus to start: Milvus Lite for some 50,000 pictures, or the real one.  "
    "[default: lite]",
)
def up(workers: int | None, milvus: MilvusKind | None, **options: Any) -> None:
    """Run the whole service in the foreground; Ctrl-C stops it."""
    from twinlens.cli.service.up import run_up

    run_up(_settings(options), workers, milvus)


@main.command()
@click.option("--host", help="Address to serve.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="[default: 8000]")
def api(**options: Any) -> None:
    """Run the API alone; settings come from the environment."""
    from twinlens.cli.service.serve import serve

    serve(_settings(options))


@main.command()
@click.option("--lanes", required=True, help="search, bulk, or both: search,bulk.")
@click.option(
    "--processes", type=click.IntRange(1), help="[default: bulk one a core, search 1, on a GPU 1]"
)
def worker(lanes: str, processes: int | None) -> None:
    """Run a worker alone; settings come from the environment."""
    from twinlens.shared.queue import LANES

    wanted: list[Any] = lanes.split(",")
    if not set(wanted) <= LANES.keys():
        raise click.BadParameter(f"there are the lanes {', '.join(LANES)}", param_hint="--lanes")
    _settings({})
    from twinlens.workers.process.app import run_worker

    run_worker(wanted, processes)


@main.command()
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="PATH…"
)
@click.option(
    "--coco",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.json",
    help="COCO annotations: what is on a picture becomes its metadata.",
)
@click.option(
    "--parallel",
    "n_threads",
    default=4,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Uploads at a time.",
)
@url_option
@library_option
def index(
    paths: tuple[Path, ...], url: str, library: str, n_threads: int, coco: Path | None
) -> None:
    """Upload folders, pictures, archives (zip, tar) and listings (ndjson), and wait.

    It ends when all of them can be found. Run it again if it was broken off: what is there already
    is not uploaded again.
    """
    from twinlens.cli.upload.index import run_index

    run_index(paths, url, library, n_threads, coco)


picture_file = click.Path(exists=True, dir_okay=False, path_type=Path)
models_option = click.option("--models", help="Models to ask, a,b,…  [default: all of the library]")


@main.command()
@click.argument("files", nargs=-1, type=picture_file, metavar="[FILE]…")
@click.option("--unlike", multiple=True, type=picture_file, help="A picture of what it is not.")
@click.option("--text", help="Words instead of FILE, for models that have a text encoder.")
@click.option("--region", type=Region(), help="Look for this part of FILE; edges from 0 to 1.")
@click.option("--near", is_flag=True, help="Find copies and edits of FILE.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1, 1000), help="Hits.")
@click.option("--offset", default=0, type=click.IntRange(0), help="Pass over so many of the best.")
@models_option
@click.option(
    "--fusion",
    type=click.Choice(["calibrated", "weighted", "rrf", "max", "min"]),
    default="calibrated",
    show_default=True,
    help="How the models' distances become one score.",
)
@click.option(
    "--weight", "weights", multiple=True, type=NamedNumber(), help="Of a model, in the fusion."
)
@click.option(
    "--rerank",
    type=click.Choice(["neighbours", "none"]),
    default="neighbours",
    show_default=True,
    help="Whether hits that are near each other as well move up.",
)
@click.option("--filter", help="""Only pictures whose metadata fit: 'city == "Paris"'.""")
@click.option("--min-score", default=0.0, type=click.FloatRange(0, 1), help="Of a hit.")
@click.option(
    "--max-distance",
    multiple=True,
    type=NamedNumber(),
    help="Of a hit, under a model; for IP and COSINE, how similar at least.",
)
@click.option("--group-by", metavar="FIELD", help="Only the best of each value of this metadata.")
@click.option("--exclude", multiple=True, metavar="ID", help="An image that is not wanted.")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Contact sheet, PNG.")
@click.option("--open", "is_opened", is_flag=True, help="Show the contact sheet.")
@url_option
@library_option
def search(
    files: tuple[Path, ...],
    unlike: tuple[Path, ...],
    url: str,
    save: Path | None,
    is_opened: bool,
    near: bool,
    **query: Any,
) -> None:
    """Find the pictures nearest to FILE, or to words.

    Several files are examples of one thing.
    """
    from twinlens.cli.show.search import read_query, run_search

    if bool(files) == (query["text"] is not None) or (unlike and not files):
        raise click.UsageError("give either FILE or --text; --unlike goes with FILE")
    for name in ("weights", "max_distance"):
        query[name] = dict(query[name])
    query["models"] = _names(query["models"])
    wanted = read_query(mode="near" if near else "similar", **query)
    run_search(files, unlike, wanted, url, save, is_opened=is_opened)


@main.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@models_option
@url_option
@library_option
def compare(first: str, second: str, models: str | None, url: str, library: str) -> None:
    """Tell how near two pictures are; files, or ids of images of the library."""
    from twinlens.cli.show.duplicates import run_compare

    run_compare((first, second), url, library, _names(models))


@main.command()
@click.option("--max-distance", type=int, help="Bits in which the hashes differ at most.")
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(0), help="Groups to show."
)
@click.option(
    "--save", type=click.Path(dir_okay=False, path_type=Path), help="All groups, as ids: JSON."
)
@url_option
@library_option
def duplicates(url: str, limit: int, save: Path | None, **query: Any) -> None:
    """Find copies and edits of one picture in a library, the largest groups first."""
    from twinlens.cli.show.duplicates import run_duplicates
    from twinlens.shared.messages import DuplicatesQuery

    run_duplicates(read_as(DuplicatesQuery, **query), url, limit, save)


@main.command()
@url_option
def stats(url: str) -> None:
    """Show the workers, their rates, and what waits."""
    from twinlens.cli.show.stats import show_stats

    show_stats(url)


@main.command()
@click.argument("job_id", required=False, metavar="[ID]")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
@url_option
def jobs(job_id: str | None, limit: int, url: str) -> None:
    """List jobs, or show one with its failed pictures."""
    from twinlens.cli.show import tables

    if job_id is None:
        tables.show_jobs(url, limit)
    else:
        tables.show_job(url, job_id, limit)


for command in (libraries, models, evaluate_models, compare_models):
    main.add_command(command)


@main.command()
@click.option("--data-dir", default=".demo", show_default=True, type=click.Path(path_type=Path))
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="[default: any free one]")
@click.option("--keep", is_flag=True, help="Stay up until Ctrl-C.")
def demo(data_dir: Path, port: int, keep: bool) -> None:
    """Start everything, index real photos, search, and show the result."""
    from twinlens.cli.demo import run_demo

    run_demo(data_dir, port, keep=keep)


def _names(text: str | None) -> list[str] | None:
    return text.split(",") if text else None


def _settings(options: dict[str, Any]) -> Settings:
    """Reads the settings; options that were given go first.

    Raises:
        CommandRefused: One is not valid.
    """
    from pydantic import ValidationError

    from twinlens.cli.errors import CommandRefused
    from twinlens.shared.settings import Settings

    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(map(str, first["loc"])).upper()
        raise CommandRefused(f"setting TWINLENS_{name}: {first['msg']}") from None


if __name__ == "__main__":
    main()
