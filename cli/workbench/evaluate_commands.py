"""`twinlens evaluate`, `tune` and `compare-models`: the options. The work is done elsewhere."""

# ruff: noqa: PLC0415 (imports wait until they are used)
from __future__ import annotations

from pathlib import Path

import click

from twinlens.cli.output import json_option
from twinlens.cli.parameters import FileToWrite, complete_library, library_option, url_option
from twinlens.cli.workbench.model_commands import (
    cache_dir,
    cache_option,
    dir_option,
    version_option,
)

models_option = click.option(
    "--models", "refs", help="Models: NAME[@VERSION],…  [default: those of a new library]"
)


@click.command("evaluate")
@click.argument(
    "photos",
    metavar="LABELS|FOLDER",
    required=False,
    type=click.Path(exists=True, path_type=Path),
)
@click.option(
    "--coco",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="COCO annotations of FOLDER's photos: those that share categories are related.",
)
@models_option
@click.option(
    "--queries",
    "max_queries",
    default=2_000,
    show_default=True,
    type=click.IntRange(1),
    help="How many photos, or names with --text, are looked for at most, drawn at random.",
)
@click.option(
    "--report",
    default="evaluation.html",
    show_default=True,
    type=FileToWrite(".html", ".htm"),
    help="HTML file to write.",
)
@click.option(
    "--text",
    "is_of_words",
    is_flag=True,
    help="Look for each label by its name, under the models with a text encoder.",
)
@click.option(
    "--apply", "is_applied", is_flag=True, help="Make the recommendation the library's plan."
)
@url_option
@click.option(
    "--library",
    "libraries",
    multiple=True,
    shell_complete=complete_library,
    help="The library of --apply, `default` by default. Given twice: these two are compared.",
)
@cache_option
@json_option
@dir_option
def evaluate_models(
    photos: Path | None,
    coco: Path | None,
    refs: str | None,
    max_queries: int,
    report: Path,
    is_of_words: bool,
    is_applied: bool,
    url: str,
    libraries: tuple[str, ...],
    cache: Path | None,
    directory: Path | None,
) -> None:
    """Measure models and their fusions on labelled photos: a CSV of file,label.

    With --coco FILE, the photos are those of FOLDER that the file names, by default of the folder
    that it lies in.
    """
    from twinlens.cli.workbench import evaluate, inspect_models, labelled, rivals
    from twinlens.cli.workbench import tune as tuning
    from twinlens.models.workbench.labels import read_labels

    if is_of_words and (is_applied or len(libraries) > 1):
        raise click.UsageError(
            "--apply and two of --library are for what is measured with pictures: leave out --text"
        )
    _check_asked(photos, coco, libraries, is_planned=refs is not None or is_applied)
    if coco is not None:
        pictures, title = labelled.read_coco_labels(coco, photos or coco.parent), coco.name
    else:
        assert photos is not None
        pictures, title = read_labels(photos), photos.name
    registry = inspect_models.registry_of(directory)
    kept = cache or cache_dir()
    if len(libraries) > 1:
        rivals.run_rivals(registry, pictures, libraries, url, kept, max_queries)
        return
    asked = _refs(refs)
    if is_of_words:
        evaluate.run_evaluate_names(
            registry, pictures, asked, kept, report, title=title, max_queries=max_queries
        )
        return
    apply = evaluate.run_evaluate(
        registry, pictures, asked, kept, report, title=title, max_queries=max_queries
    )
    if coco is None and photos is not None:
        tuning.tell_of_tuning(registry, photos, pictures, asked)
    if is_applied:
        apply(url, libraries[0] if libraries else "default")


@click.command()
@click.argument(
    "labels", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False
)
@click.option(
    "--by",
    "field",
    help="Learn from the library's images, by a field of their metadata, instead of LABELS.",
)
@models_option
@version_option
@click.option("--apply", "is_applied", is_flag=True, help="Give the library the new versions.")
@url_option
@library_option
@cache_option
@json_option
@dir_option
def tune(
    labels: Path | None,
    field: str | None,
    refs: str | None,
    version: str | None,
    is_applied: bool,
    url: str,
    library: str,
    cache: Path | None,
    directory: Path | None,
) -> None:
    """Make versions of models that learn from labelled photos, a CSV of file,label, if that helps.

    Whether it does is measured on labels that taught nothing. The library is built anew from the
    vectors that it has, without its pictures.
    """
    from twinlens.cli.workbench import inspect_models
    from twinlens.cli.workbench import tune as tuning

    if (labels is None) == (field is None):
        raise click.UsageError("name either LABELS, a CSV of file,label, or --by FIELD")
    registry = inspect_models.registry_of(directory)
    if labels is not None:
        taught = tuning.read_list(registry, labels, _refs(refs), cache or cache_dir())
    elif refs is not None:
        raise click.UsageError("--by tunes the library's models; leave --models out")
    else:
        taught = tuning.read_library(registry, url, library, str(field))
    made = tuning.run_tune(registry, taught, version)
    if is_applied:
        tuning.apply_versions(url, library, made)


@click.command("compare-models")
@click.argument("query", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@models_option
@click.option(
    "--save",
    default="compared.png",
    show_default=True,
    type=FileToWrite(".png"),
    help="PNG file to write.",
)
@cache_option
@json_option
@dir_option
def compare_models(
    query: Path,
    folder: Path,
    refs: str | None,
    save: Path,
    cache: Path | None,
    directory: Path | None,
) -> None:
    """Show what each model finds in FOLDER for the picture QUERY, side by side."""
    from twinlens.cli.workbench import evaluate, inspect_models

    registry = inspect_models.registry_of(directory)
    evaluate.run_compare(registry, query, folder, _refs(refs), cache or cache_dir(), save)


def _check_asked(
    photos: Path | None, coco: Path | None, libraries: tuple[str, ...], *, is_planned: bool
) -> None:
    """Refuses what does not go together, before anything is done."""
    if coco is None and photos is None:
        raise click.UsageError("name a CSV of file,label, or --coco FILE and the photos' folder")
    if coco is None and photos is not None and photos.is_dir():
        raise click.UsageError(
            f"{photos} is a folder: name a CSV of file,label, or add --coco FILE"
        )
    if coco is not None and photos is not None and not photos.is_dir():
        raise click.UsageError(f"{photos} is no folder: --coco takes the photos' folder")
    if len(libraries) > 2 or len(libraries) != len(set(libraries)):
        raise click.UsageError("two different libraries are compared: give --library twice")
    if len(libraries) > 1 and is_planned:
        raise click.UsageError(
            "two libraries are compared as they are: leave out --models and --apply"
        )


def _refs(text: str | None) -> list[str]:
    from twinlens.models.registry import DEFAULT_MODELS

    return text.split(",") if text else list(DEFAULT_MODELS)
