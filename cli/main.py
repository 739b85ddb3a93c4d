"""The command line: what can be said. What is done is in the other modules, imported when used."""

# ruff: noqa: PLC0415 (imports wait until they are used, so that --help takes 60 ms)
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twinlens import __version__
from twinlens.cli.addresses import DEFAULT_URL
from twinlens.cli.models import compare_models, evaluate_models, models

if TYPE_CHECKING:
    from twinlens.cli.up import MilvusKind
    from twinlens.shared.settings import Settings

url_option = click.option(
    "--url",
    envvar="TWINLENS_URL",
    default=DEFAULT_URL,
    show_default=True,
    show_envvar=True,
    help="The service.",
)
library_option = click.option("--library", default="default", show_default=True)


class _Commands(click.Group):
    """Ends a command with one line where the project's own errors end it."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            from twinlens.cli.errors import CommandFailed
            from twinlens.shared.errors import TwinlensError

            if isinstance(error, TwinlensError):
                raise CommandFailed(error.detail) from None
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
    from twinlens.cli.up import run_up

    run_up(_settings(options), workers, milvus)


@main.command()
@click.option("--host", help="Address to serve.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="[default: 8000]")
def api(**options: Any) -> None:
    """Run the API alone; settings come from the environment."""
    from twinlens.cli.serve import serve

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
    from twinlens.workers.app import run_worker

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
    from twinlens.cli.index import run_index

    run_index(paths, url, library, n_threads, coco)


@main.command()
@click.argument(
    "file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--text", help="Words instead of FILE, for models that have a text encoder.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1, 1000), help="Hits.")
@click.option("--models", help="Models to ask, a,b,…  [default: all of the library]")
@click.option(
    "--rerank",
    type=click.Choice(["neighbours", "none"]),
    default="neighbours",
    show_default=True,
    help="Whether hits that are near each other as well move up.",
)
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Contact sheet, PNG.")
@click.option("--open", "is_opened", is_flag=True, help="Show the contact sheet.")
@url_option
@library_option
def search(file: Path | None, url: str, save: Path | None, is_opened: bool, **query: Any) -> None:
    """Find the pictures nearest to FILE, or to words."""
    from twinlens.cli.search import run_search
    from twinlens.shared.messages import SearchQuery

    if (file is None) == (query["text"] is None):
        raise click.UsageError("give either FILE or --text")
    names = query.pop("models")
    wanted = SearchQuery(models=names.split(",") if names else None, **query)
    run_search(file, wanted, url, save, is_opened=is_opened)


@main.command()
@url_option
def stats(url: str) -> None:
    """Show the workers, their rates, and what waits."""
    from twinlens.cli.stats import show_stats

    show_stats(url)


@main.command()
@click.argument("job_id", required=False, metavar="[ID]")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
@url_option
def jobs(job_id: str | None, limit: int, url: str) -> None:
    """List jobs, or show one with its failed pictures."""
    from twinlens.cli import tables

    if job_id is None:
        tables.show_jobs(url, limit)
    else:
        tables.show_job(url, job_id, limit)


for command in (models, evaluate_models, compare_models):
    main.add_command(command)


@main.command()
@click.option("--data-dir", default=".demo", show_default=True, type=click.Path(path_type=Path))
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="[default: any free one]")
@click.option("--keep", is_flag=True, help="Stay up until Ctrl-C.")
def demo(data_dir: Path, port: int, keep: bool) -> None:
    """Start everything, index real photos, search, and show the result."""
    from twinlens.cli.demo import run_demo

    run_demo(data_dir, port, keep=keep)


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
