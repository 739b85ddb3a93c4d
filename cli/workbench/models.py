"""`twinlens models …`: what can be said. What is done is in `workbench`, imported when used."""

# ruff: noqa: PLC0415 (imports wait until they are used: TensorFlow's alone takes seconds)
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twinlens.cli.service.addresses import DEFAULT_URL

if TYPE_CHECKING:
    from twinlens.models.build.presets import PerChannel, Preprocessing

dir_option = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of models.  [default: the data directory's]",
)
photos_option = click.option(
    "--photos",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of photos like those that will be searched.",
)
version_option = click.option("--version", help="Of the new model.")
ref_argument = click.argument("ref", metavar="NAME[@VERSION]")


class Triple(click.ParamType[tuple[float, ...]]):
    """Three numbers, one a channel: 0.485,0.456,0.406."""

    name = "a,b,c"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Reads the numbers."""
        try:
            numbers = tuple(float(word) for word in value.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != 3:
            self.fail(f"{value!r} is not three numbers with commas between", param, ctx)
        return numbers


@click.group()
def models() -> None:
    """Convert, verify, quantise and compare models. A model is NAME, or NAME@VERSION."""


@models.command("list")
@dir_option
@click.option("--url", envvar="TWINLENS_URL", help="List those that a service has instead.")
def list_models(directory: Path | None, url: str | None) -> None:
    """List the models of the directory."""
    from twinlens.cli.show import tables
    from twinlens.cli.workbench import making as workbench

    if url:
        tables.show_served_models(url)
    else:
        workbench.show_models(workbench.registry_of(directory))


@models.command()
@ref_argument
@dir_option
def show(ref: str, directory: Path | None) -> None:
    """Show a model's card."""
    from twinlens.cli.workbench import making as workbench

    workbench.show_model(workbench.registry_of(directory), ref)


@models.command()
@click.argument("refs", nargs=-1, metavar="[NAME[@VERSION]]…")
@dir_option
def verify(refs: tuple[str, ...], directory: Path | None) -> None:
    """Run models' golden pictures and compare; all models by default."""
    from twinlens.cli.workbench import making as workbench

    workbench.verify_models(workbench.registry_of(directory), refs)


@models.command()
@ref_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@dir_option
def remove(ref: str, yes: bool, directory: Path | None) -> None:
    """Remove a model's card and files."""
    from twinlens.cli.workbench import making as workbench

    registry = workbench.registry_of(directory)
    card = registry.card(ref)
    if not yes:
        click.confirm(f"Remove {card.ref}? Libraries that use it need it to search", abort=True)
    registry.remove(card.ref)
    click.echo(f"removed {card.ref}")


@models.command()
@click.argument("refs", nargs=-1, metavar="[NAME[@VERSION]]…")
@dir_option
def bench(refs: tuple[str, ...], directory: Path | None) -> None:
    """Measure pictures a second on one core, models in turn; all by default."""
    from twinlens.cli.workbench import making as workbench

    workbench.bench_models(workbench.registry_of(directory), refs)


@models.command()
@click.argument("network")
@click.option("--weights", default="imagenet", show_default=True, help="imagenet, random, or FILE.")
@click.option("--seed", default=0, show_default=True, help="Of random weights.")
@click.option("--pooling", type=click.Choice(["max", "avg"]), default="max", show_default=True)
@click.option("--name", help="[default: the network's]")
@version_option
@dir_option
def export(network: str, directory: Path | None, **options: Any) -> None:
    """Export a network of keras.applications, such as resnet50 or vgg16."""
    from twinlens.cli.workbench import making as workbench

    workbench.export_network(workbench.registry_of(directory), network, **options)


@models.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", required=True)
@click.option("--title", help="What it is good for.")
@click.option("--licence", default="unknown", show_default=True)
@click.option("--source", default="unknown", show_default=True)
@click.option("--preset", help="torchvision, caffe, tf or keras-caffe; what follows goes first.")
@click.option("--layout", type=click.Choice(["nchw", "nhwc"]))
@click.option("--channels", type=click.Choice(["rgb", "bgr"]))
@click.option("--scale", type=float, help="A pixel is (pixel * scale - mean) / std.")
@click.option("--mean", type=Triple(), help="A number a channel, in the order of --channels.")
@click.option("--std", type=Triple(), help="As --mean.")
@click.option("--size", type=click.IntRange(8, 4096), help="Side in px, where the graph takes any.")
@click.option("--resize", type=click.Choice(["bilinear", "bicubic", "lanczos"]), default="bicubic")
@click.option("--crop", type=click.FloatRange(0, 1, min_open=True), help="Keep the middle part.")
@click.option("--output", help="Tensor to take the embedding from.")
@click.option("--pool", type=click.Choice(["max", "avg", "none"]), default="none")
@click.option("--text", type=click.Path(exists=True, path_type=Path), help="Text encoder, ONNX.")
@click.option("--tokenizer", type=click.Path(exists=True, path_type=Path), help="tokenizer.json.")
@version_option
@dir_option
def add(file: Path, directory: Path | None, **options: Any) -> None:
    """Add any ONNX network, rewritten into the one form."""
    from twinlens.cli.workbench import making as workbench

    asked = {name: options.pop(name) for name in ("layout", "channels", "scale", "mean", "std")}
    preprocessing = _preprocessing(options.pop("preset"), asked)
    workbench.add_network(workbench.registry_of(directory), file, preprocessing, **options)


@models.command()
@ref_argument
@photos_option
@version_option
@dir_option
def quantize(ref: str, photos: Path, version: str | None, directory: Path | None) -> None:
    """Make an int8 version: a quarter of the size, and faster."""
    from twinlens.cli.workbench import making as workbench

    workbench.quantize(workbench.registry_of(directory), ref, photos, version)


@models.command()
@ref_argument
@click.option("--dim", required=True, type=click.IntRange(1), help="Numbers in an embedding.")
@click.option(
    "--whiten",
    is_flag=True,
    help="Give every direction the same variance; it lost mAP wherever it was measured.",
)
@photos_option
@version_option
@dir_option
def project(ref: str, directory: Path | None, **options: Any) -> None:
    """Make a version with shorter embeddings, by PCA."""
    from twinlens.cli.workbench import making as workbench

    workbench.project(workbench.registry_of(directory), ref, **options)


cache_option = click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where embeddings are kept.  [default: the user's cache]",
)


@models.command()
@ref_argument
@click.argument("photos", type=click.Path(exists=True, path_type=Path), metavar="FOLDER|LABELS")
@cache_option
@dir_option
def calibrate(ref: str, photos: Path, cache: Path | None, directory: Path | None) -> None:
    """Measure how far apart a model puts unrelated photos, for its card.

    FOLDER has photos like those that will be searched; LABELS is a CSV of file,label, as for
    `evaluate`, and tells which of them are unrelated.
    """
    from twinlens.cli.workbench import evaluate
    from twinlens.cli.workbench import making as workbench

    registry = workbench.registry_of(directory)
    evaluate.run_calibrate(registry, ref, photos, cache or _cache_dir())


models_option = click.option(
    "--models", "refs", help="NAME[@VERSION],…  [default: those of a new library]"
)


@click.command("evaluate")
@click.argument("labels", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@models_option
@click.option(
    "--report",
    default="evaluation.html",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
)
@click.option("--apply", "is_applied", is_flag=True, help="Make it the library's plan.")
@click.option("--url", envvar="TWINLENS_URL", default=DEFAULT_URL, show_default=True)
@click.option("--library", default="default", show_default=True)
@cache_option
@dir_option
def evaluate_models(
    labels: Path,
    refs: str | None,
    report: Path,
    is_applied: bool,
    url: str,
    library: str,
    cache: Path | None,
    directory: Path | None,
) -> None:
    """Measure models and their fusions on labelled photos: CSV of file,label."""
    from twinlens.cli.workbench import evaluate
    from twinlens.cli.workbench import making as workbench

    registry = workbench.registry_of(directory)
    apply = evaluate.run_evaluate(registry, labels, _refs(refs), cache or _cache_dir(), report)
    if is_applied:
        apply(url, library)


@click.command("compare-models")
@click.argument("query", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@models_option
@click.option(
    "--save",
    default="compared.png",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
)
@cache_option
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
    from twinlens.cli.workbench import evaluate
    from twinlens.cli.workbench import making as workbench

    registry = workbench.registry_of(directory)
    evaluate.run_compare(registry, query, folder, _refs(refs), cache or _cache_dir(), save)


def _refs(text: str | None) -> list[str]:
    from twinlens.models.registry import DEFAULT_MODELS

    return text.split(",") if text else list(DEFAULT_MODELS)


def _cache_dir() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("twinlens") / "embeddings"


def _preprocessing(preset: str | None, asked: dict[str, Any]) -> Preprocessing:
    """Returns a preset with what was asked for put in its place; identity if there is no preset.

    Raises:
        click.UsageError: There is no such preset.
    """
    from dataclasses import replace

    from twinlens.models.build.presets import PRESETS, Preprocessing

    no_mean: PerChannel = (0.0, 0.0, 0.0)
    no_std: PerChannel = (1.0, 1.0, 1.0)
    plain = Preprocessing("nchw", "rgb", 1.0, no_mean, no_std)
    if preset is not None and preset not in PRESETS:
        raise click.UsageError(f"no preset is named {preset!r}; there are {', '.join(PRESETS)}")
    given = {name: value for name, value in asked.items() if value is not None}
    return replace(PRESETS[preset] if preset else plain, **given)
