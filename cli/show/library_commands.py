"""`twinlens libraries …`: the options. The work is done in `libraries.py`, imported when used."""

# ruff: noqa: PLC0415 (imports wait until they are used, so that --help takes 60 ms)
from __future__ import annotations

import click

from twinlens.cli.output import json_option
from twinlens.cli.parameters import NamedNumber, complete_library, read_as, url_option
from twinlens.cli.service.addresses import DEFAULT_URL


def _group_url(ctx: click.Context, param: click.Parameter, value: str | None) -> str:  # noqa: ARG001 (click passes it)
    assert ctx.parent is not None
    return value or ctx.parent.params["url"]


# After the subcommand as well as before it; either way the same service.
service_option = click.option(
    "--url", callback=_group_url, show_default=DEFAULT_URL, help="Address of the service."
)
name_argument = click.argument("name", shell_complete=complete_library)


@click.group(invoke_without_command=True)
@json_option
@url_option
@click.pass_context
def libraries(ctx: click.Context, url: str) -> None:
    """List the libraries; create, change and remove them."""
    if ctx.invoked_subcommand is not None:
        return
    from twinlens.cli.show.libraries import show_libraries
    from twinlens.client.client import Client

    with Client(url) as client:
        show_libraries(client)


@libraries.command("set", short_help="Create or change a library.")
@name_argument
@click.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    metavar="NAME[@VERSION]",
    help="Model of the library; repeatable.",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    type=NamedNumber(),
    help="Weight of a model in the fusion; repeatable.",
)
@click.option(
    "--metric",
    type=str.upper,
    metavar="METRIC",
    help="L2, IP or COSINE.  [default: each model's own]",
)
@click.option(
    "--index",
    "type_",
    default="AUTO",
    show_default=True,
    type=str.upper,
    metavar="TYPE",
    help="Index of float vectors: FLAT, HNSW, IVF_FLAT, …",
)
@click.option(
    "--param",
    "params",
    multiple=True,
    type=NamedNumber(),
    help="Parameter of the index or its search, by Milvus' names: M=16; repeatable.",
)
@click.option(
    "--recall",
    type=float,
    metavar="SHARE",
    help="Share of the 10 nearest that HNSW must find.  [default: 0.98]",
)
@click.option(
    "--vector",
    default="FLOAT32",
    show_default=True,
    type=str.upper,
    metavar="KIND",
    help="FLOAT32, or FLOAT16 for half the memory (not on Milvus 2.3).",
)
@click.option("--no-wait", is_flag=True, help="Print the job's id instead of waiting.")
@json_option
@service_option
def set_library(
    name: str,
    url: str,
    no_wait: bool,
    type_: str,
    params: tuple[tuple[str, float], ...],
    recall: float | None,
    vector: str,
    weights: tuple[tuple[str, float], ...],
    **plan: object,
) -> None:
    """Create library NAME, or change it.

    Options that are not given get their defaults, whatever they were before.

    Stored pictures are embedded again where necessary. Until that is done, searches work as before.
    """
    from twinlens.cli.show.libraries import change_library, show_plan
    from twinlens.cli.upload.index import OUTAGE_S
    from twinlens.client.client import Client
    from twinlens.shared.answers import LibraryPlan

    index = {"type": type_, "params": dict(params), "recall": recall, "vector": vector}
    wanted = read_as(LibraryPlan, weights=dict(weights), index=index, **plan)
    with Client(url, outage_s=OUTAGE_S) as client:
        show_plan(client, change_library(client, name, wanted, is_followed=not no_wait))


@libraries.command(short_help="Cancel or undo a change of a library.")
@name_argument
@json_option
@service_option
def rollback(name: str, url: str) -> None:
    """Cancel the change of NAME that is under way; if there is none, undo the last one."""
    from twinlens.cli.show.libraries import roll_back
    from twinlens.client.client import Client

    with Client(url) as client:
        roll_back(client, name)


@libraries.command()
@name_argument
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
@service_option
def remove(name: str, yes: bool, url: str) -> None:
    """Remove a library with all of its images."""
    from twinlens.cli.show.libraries import remove_library
    from twinlens.client.client import Client

    with Client(url) as client:
        remove_library(client, name, is_asked=not yes)
