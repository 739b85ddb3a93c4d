"""`twinlens models …`: the options.

The work is done in the other modules of this package, imported when used.
"""

# ruff: noqa: PLC0415 (imports wait until they are used: TensorFlow's alone takes seconds)
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from twinlens.cli.output import json_option
from twinlens.cli.parameters import CardText, FileToWrite, url_option
from twinlens.cli.workbench.pixel_options import Triple, preset_of

if TYPE_CHECKING:
    from twinlens.cli.workbench.make_models import NetworkOptions
    from twinlens.cli.workbench.pixel_options import PixelOptions

    class AddOptions(PixelOptions, NetworkOptions):
        """The options of `models add`."""


dir_option = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of models.  [default: that of the data directory]",
)
photos_option = click.option(
    "--photos",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of photos like those that will be searched.",
)
measured_option = click.option(
    "--photos",
    type=click.Path(exists=True, path_type=Path),
    help="Folder, or CSV of file,label: how far apart the model puts these goes into its card.",
)
version_option = click.option(
    "--version", type=CardText("version"), help="Version of the new model."
)
ref_argument = click.argument("ref", metavar="NAME[@VERSION]")
cache_option = click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for what need not be fetched or computed again.  [default: the user's cache]",
)


@click.group()
def models() -> None:
    """Convert, verify, quantise and compare models. A model is NAME, or NAME@VERSION."""


@models.command("list")
@json_option
@dir_option
@click.option("--url", envvar="TWINLENS_URL", help="List the models of this service instead.")
def list_models(directory: Path | None, url: str | None) -> None:
    """List the models of the directory."""
    from twinlens.cli.workbench import inspect_models

    if url:
        inspect_models.show_served_models(url)
    else:
        inspect_models.show_models(inspect_models.registry_of(directory))


@models.command()
@ref_argument
@json_option
@dir_option
def show(ref: str, directory: Path | None) -> None:
    """Show a model's card."""
    from twinlens.cli.workbench import inspect_models

    inspect_models.show_model(inspect_models.registry_of(directory), ref)


@models.command()
@click.argument("refs", nargs=-1, metavar="[NAME[@VERSION]]…")
@json_option
@dir_option
def verify(refs: tuple[str, ...], directory: Path | None) -> None:
    """Check models with their golden pictures; all models by default."""
    from twinlens.cli.workbench import inspect_models

    inspect_models.verify_models(inspect_models.registry_of(directory), refs)


@models.command()
@ref_argument
@click.option(
    "--force", is_flag=True, help="Remove it though libraries need it, or no service tells."
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
@url_option
@dir_option
def remove(ref: str, force: bool, yes: bool, url: str, directory: Path | None) -> None:
    """Remove a model's card and files, unless a library of the service needs it."""
    from twinlens.cli.workbench import inspect_models, remove_models

    registry = inspect_models.registry_of(directory)
    remove_models.remove_model(registry, ref, url, is_forced=force, is_asked=not yes)


@models.command()
@click.argument("refs", nargs=-1, metavar="[NAME[@VERSION]]…")
@json_option
@dir_option
def bench(refs: tuple[str, ...], directory: Path | None) -> None:
    """Measure the pictures per second of models on one core; all models by default."""
    from twinlens.cli.workbench import inspect_models

    inspect_models.bench_models(inspect_models.registry_of(directory), refs)


@models.command()
@click.argument("first", metavar="NAME[@VERSION]")
@click.argument("second", metavar="NAME[@VERSION]")
@click.argument(
    "photos",
    nargs=-1,
    required=True,
    metavar="PHOTOS…",
    type=click.Path(exists=True, path_type=Path),
)
@click.option(
    "--save", type=FileToWrite(".png"), help="PNG file of the pictures that they disagree on most."
)
@cache_option
@json_option
@dir_option
def compare(
    first: str,
    second: str,
    photos: tuple[Path, ...],
    save: Path | None,
    cache: Path | None,
    directory: Path | None,
) -> None:
    """Show where two models disagree on your own photos, before you change from one to the other.

    PHOTOS are files and folders. Which of the two is right, `twinlens evaluate` measures.
    """
    from twinlens.cli.workbench import compare_versions, inspect_models

    registry = inspect_models.registry_of(directory)
    compare_versions.run_compare_versions(
        registry, (first, second), photos, cache or cache_dir(), save
    )


@models.command()
@click.argument("network")
@click.option(
    "--weights", default="imagenet", show_default=True, help="imagenet, random, or a file."
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0, 2**32 - 1),
    help="Seed of random weights.",
)
@click.option(
    "--pooling",
    type=click.Choice(["max", "avg"]),
    default="max",
    show_default=True,
    help="How to pool the last feature maps.",
)
@click.option(
    "--name", type=CardText("name"), help="Name of the new model.  [default: the network's]"
)
@version_option
@measured_option
@cache_option
@json_option
@dir_option
def export(
    network: str,
    directory: Path | None,
    photos: Path | None,
    cache: Path | None,
    weights: str,
    seed: int,
    pooling: str,
    name: str | None,
    version: str | None,
) -> None:
    """Export a network of keras.applications, such as resnet50 or vgg16."""
    from twinlens.cli.workbench import evaluate, inspect_models, make_models

    pictures = evaluate.read_photos(photos) if photos else None
    registry = inspect_models.registry_of(directory)
    ref = make_models.export_network(
        registry,
        network,
        weights=weights,
        seed=seed,
        pooling=pooling,
        name=name,
        version=version,
    )
    evaluate.calibrate_new(registry, ref, pictures, cache or cache_dir())
    inspect_models.show_made(registry, ref)


@models.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", required=True, type=CardText("name"), help="Name of the new model.")
@click.option(
    "--title", type=CardText("text"), help="Title on its card.  [default: the file's name]"
)
@click.option(
    "--licence",
    type=CardText("text"),
    default="unknown",
    show_default=True,
    help="Licence on its card.",
)
@click.option(
    "--source",
    type=CardText("text"),
    default="unknown",
    show_default=True,
    help="Where it comes from.",
)
@click.option(
    "--preset",
    help="torchvision, caffe, tf, keras-caffe or keras-torch; the next nine override it.",
)
@click.option("--layout", type=click.Choice(["nchw", "nhwc"]), help="Order of dimensions.")
@click.option("--channels", type=click.Choice(["rgb", "bgr"]), help="Order of colours.")
@click.option("--scale", type=float, help="Pixels become (pixel * scale - mean) / std.")
@click.option("--mean", type=Triple(), help="One number per channel, in the order of --channels.")
@click.option("--std", type=Triple(), help="Like --mean.")
@click.option(
    "--resize",
    type=click.Choice(["bilinear", "bicubic", "lanczos"]),
    help="Filter that resizes pictures.  [default: bicubic]",
)
@click.option(
    "--fit",
    type=click.Choice(["squash", "crop"]),
    help="Keep all of a picture, or its proportions.  [default: squash]",
)
@click.option(
    "--crop",
    type=click.FloatRange(0, 1, min_open=True),
    help="Keep this part of the middle, instead of squashing.",
)
@click.option(
    "--resize-to",
    "resized_px",
    type=click.IntRange(8, 8192),
    help="Resize the shorter side (--fit squash: both) to so many pixels, then cut out the middle.",
)
@click.option(
    "--size", type=click.IntRange(8, 4096), help="Side in pixels, if the graph takes any."
)
@click.option("--output", help="Tensor to take the embedding from.")
@click.option(
    "--pool",
    type=click.Choice(["max", "avg", "cls", "mean", "none"]),
    default="none",
    help="How to pool: max or avg of feature maps, mean or cls (the first) of tokens.",
)
@click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Its text encoder, ONNX.",
)
@click.option(
    "--tokenizer",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The encoder's tokenizer.json.",
)
@click.option(
    "--template",
    "templates",
    multiple=True,
    type=CardText("template"),
    metavar="'a photo of {}'",
    help="What words are put into; of several, the embeddings are averaged; repeatable.",
)
@version_option
@measured_option
@cache_option
@json_option
@dir_option
def add(
    file: Path,
    directory: Path | None,
    photos: Path | None,
    cache: Path | None,
    preset: str | None,
    **options: Unpack[AddOptions],
) -> None:
    """Add any ONNX network, rewritten into the form that all models have."""
    from twinlens.cli.workbench import evaluate, inspect_models, make_models

    asked = preset_of(preset, options)
    pictures = evaluate.read_photos(photos) if photos else None
    registry = inspect_models.registry_of(directory)
    ref = make_models.add_network(registry, file, asked, options)
    evaluate.calibrate_new(registry, ref, pictures, cache or cache_dir())
    inspect_models.show_made(registry, ref)


@models.command()
@ref_argument
@photos_option
@version_option
@cache_option
@json_option
@dir_option
def quantize(
    ref: str, photos: Path, version: str | None, cache: Path | None, directory: Path | None
) -> None:
    """Make an int8 version: a quarter of the size, and faster."""
    from twinlens.cli.workbench import evaluate, inspect_models, make_models

    registry = inspect_models.registry_of(directory)
    made = make_models.quantize(registry, ref, photos, version)
    pictures = evaluate.read_photos(photos)
    evaluate.calibrate_new(registry, made, pictures, cache or cache_dir())
    inspect_models.show_made(registry, made)


@models.command()
@ref_argument
@click.option("--dim", required=True, type=click.IntRange(1), help="Length of the new embeddings.")
@click.option(
    "--whiten",
    is_flag=True,
    help="Give every direction the same variance; this lost mAP wherever it was measured.",
)
@photos_option
@version_option
@cache_option
@json_option
@dir_option
def project(
    ref: str,
    directory: Path | None,
    dim: int,
    whiten: bool,
    photos: Path,
    version: str | None,
    cache: Path | None,
) -> None:
    """Make a version with shorter embeddings, by PCA."""
    from twinlens.cli.workbench import evaluate, inspect_models, make_models

    registry = inspect_models.registry_of(directory)
    made = make_models.project(
        registry, ref, dim=dim, whiten=whiten, photos=photos, version=version
    )
    pictures = evaluate.read_photos(photos)
    evaluate.calibrate_new(registry, made, pictures, cache or cache_dir())
    inspect_models.show_made(registry, made)


@models.command()
@ref_argument
@click.argument("photos", type=click.Path(exists=True, path_type=Path), metavar="FOLDER|LABELS")
@cache_option
@json_option
@dir_option
def calibrate(ref: str, photos: Path, cache: Path | None, directory: Path | None) -> None:
    """Measure how far apart a model puts unrelated photos, for its card.

    FOLDER has photos like those that will be searched; LABELS is a CSV of file,label, as for
    `evaluate`, and tells which of them are unrelated.
    """
    from twinlens.cli.workbench import evaluate, inspect_models

    pictures = evaluate.read_photos(photos)
    registry = inspect_models.registry_of(directory)
    evaluate.run_calibrate(registry, ref, pictures, cache or cache_dir())
    inspect_models.show_made(registry, ref)


def cache_dir() -> Path:
    """Returns where embeddings are kept if no directory is named."""
    from platformdirs import user_cache_path

    return user_cache_path("twinlens") / "embeddings"
