"""`twinlens libraries …`: what can be said. What is done is in `editions`, imported when used."""

# ruff: noqa: PLC0415 (imports wait until they are used, so that --help takes 60 ms)
from __future__ import annotations

from typing import Any

import click

from twinlens.cli.parameters import NamedNumber, read_as, url_option
from twinlens.cli.service.addresses import DEFAULT_URL


def _group_url(ctx: click.Context, param: click.Parameter, value: str | None) -> str:  # noqa: ARG001 (click passes it)
    assert ctx.parent is not None
    return value or ctx.parent.params["url"]


# As well behind the word as before it; either way the same service.
service_option = click.option(
    "--url", callback=_group_url, show_default=DEFAULT_URL, help="The service."
)
name_argument = click.argument("name")


@click.group(invoke_without_command=True)
@url_option
@click.pass_context
def libraries(ctx: click.Context, url: str) -> None:
    """List the libraries; create, change and remove them."""
    if ctx.invoked_subcommand is not None:
        return
    from twinlens.cli.show import editions
    from twinlens.client.client import Client

    with Client(url) as client:
        editions.show_libraries(client)


@libraries.command("set", short_help="Create or change a library.")
@name_argument
@click.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    metavar="NAME[@VERSION]",
    help="Each of them.",
)
@click.option(
    "--weight", "weights", multiple=True, type=NamedNumber(), help="In the fusion, of a model."
)
@click.option(
    "--metric",
    type=str.upper,
    metavar="METRIC",
    help="L2, IP or COSINE.  [default: of the models' cards]",
)
@click.option(
    "--index",
    "type_",
    default="AUTO",
    show_default=True,
    type=str.upper,
    metavar="TYPE",
    help="Of float vectors: FLAT, HNSW, IVF_FLAT, …",
)
@click.option(
    "--param",
    "params",
    multiple=True,
    type=NamedNumber(),
    help="Of the index or its search, by Milvus' names: M=16.",
)
@click.option(
    "--recall",
    type=float,
    metavar="SHARE",
    help="Of the 10 nearest, what HNSW is to find.  [default: 0.98]",
)
@click.option(
    "--vector",
    default="FLOAT32",
    show_default=True,
    type=str.upper,
    metavar="KIND",
    help="FLOAT16 takes half the memory; not on Milvus 2.3.",
)
@click.option("--no-wait", is_flag=True, help="Print the job's id, and leave it to the service.")
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
    **plan: Any,
) -> None:
    """Create library NAME, or change it.

    What is not said here is as by default, whatever it was before.

    Stored pictures are embedded anew where that is needed. Searches go on as they were until it is
    done.
    """
    from twinlens.cli.show import editions
    from twinlens.cli.upload.index import OUTAGE_S
    from twinlens.client.client import Client
    from twinlens.shared.answers import LibraryPlan

    index = {"type": type_, "params": dict(params), "recall": recall, "vector": vector}
    wanted = read_as(LibraryPlan, weights=dict(weights), index=index, **plan)
    with Client(url, outage_s=OUTAGE_S) as client:
        editions.change_library(client, name, wanted, is_followed=not no_wait)


@libraries.command(short_help="Undo a change of a library, or give it up.")
@name_argument
@service_option
def rollback(name: str, url: str) -> None:
    """Give up a change of NAME that is being made; without one, go back to what it was before."""
    from twinlens.cli.show import editions
    from twinlens.client.client import Client

    with Client(url) as client:
        editions.roll_back(client, name)


@libraries.command()
@name_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@service_option
def remove(name: str, yes: bool, url: str) -> None:
    """Remove a library with all of its images."""
    from twinlens.cli.show import editions
    from twinlens.client.client import Client

    with Client(url) as client:
        editions.remove_library(client, name, is_asked=not yes)
