"""`twinlens models pull`: the options. The work is done in `pull_models.py`."""

# ruff: noqa: PLC0415 (imports wait until they are used)
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from twinlens.cli.output import json_option
from twinlens.cli.parameters import CardText
from twinlens.cli.workbench.model_commands import (
    cache_dir,
    cache_option,
    dir_option,
    measured_option,
    version_option,
)

if TYPE_CHECKING:
    from twinlens.models.build.adapt import Pool


@click.command("pull")
@click.argument("source", metavar="NAME|hf:OWNER/REPO[@REVISION]|https:…|FOLDER")
@click.option("--name", type=CardText("name"), help="Name of the model.  [default: its own]")
@version_option
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "fp16", "int8", "uint8", "q4"]),
    help="Weights to take, where there are several.  [default: fp32, or fp16 on a GPU]",
)
@click.option("--no-words", is_flag=True, help="Leave the text encoder out.")
@click.option("--output", help="Tensor to take the embedding from.  [default: as the files say]")
@click.option(
    "--pool",
    type=click.Choice(["max", "avg", "cls", "mean", "none"]),
    help="As of `models add`.  [default: as the files say]",
)
@click.option(
    "--accept-licence",
    is_flag=True,
    help="Accept a licence that wants consent, without a question.",
)
@measured_option
@cache_option
@json_option
@dir_option
def pull_model(
    source: str,
    directory: Path | None,
    photos: Path | None,
    cache: Path | None,
    name: str | None,
    version: str | None,
    dtype: str | None,
    no_words: bool,
    output: str | None,
    pool: Pool | None,
    accept_licence: bool,
) -> None:
    """Fetch an ONNX model, prepared as its files say: from a hub, or from a folder.

    NAME is one of those of docs/models.md, such as siglip2-base.
    """
    from twinlens.cli.workbench import evaluate, inspect_models, pull_models
    from twinlens.models.pull.towers import Wishes

    pictures = evaluate.read_photos(photos) if photos else None
    registry = inspect_models.registry_of(directory)
    wishes = Wishes(output, pool, has_words=not no_words)
    options = pull_models.PullOptions(name, version, dtype, accept_licence, wishes)
    ref = pull_models.pull_model(registry, source, options, cache or cache_dir())
    evaluate.calibrate_new(registry, ref, pictures, cache or cache_dir())
    pull_models.offer(registry, ref)
    inspect_models.show_made(registry, ref)
