"""What `twinlens models …` does: models are made, measured and shown. No service is needed."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

import click

from twinlens.cli.errors import CommandFailed
from twinlens.cli.show.tables import print_table
from twinlens.cli.upload.sources import find_files
from twinlens.models.card import Card, Fit, OutputKind, Resample, TextSpec, dump_card
from twinlens.models.distances import Metric
from twinlens.models.registry import Registry, ensure_models
from twinlens.models.session import OnnxEmbedder
from twinlens.models.verify import GOLDEN_DIRECTORY
from twinlens.models.workbench.compare import (
    bytes_per_vector,
    compare_models,
    embed_each,
    read_pixels,
    time_s,
)
from twinlens.shared.errors import TwinlensError
from twinlens.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from twinlens.models.build.presets import Preprocessing
    from twinlens.models.card import Comparison, InputSpec
    from twinlens.models.session import Pixels

# Activations' ranges hardly change after so many photos.
N_CALIBRATION_PHOTOS = 100
# What the figures of a comparison are of: enough for a per cent, few enough to wait for.
N_COMPARED_PHOTOS = 200
# PCA needs more pictures than dimensions; past this many it gains nothing.
N_PROJECTION_PHOTOS = 10_000
N_BENCH_ROUNDS = 9
UNKNOWN = "0" * 64
BYTES_PER_MB = 1_000_000


def registry_of(directory: Path | None) -> Registry:
    """Returns the models of a directory, the data directory's by default, with those shipped."""
    directory = directory or Settings().models_dir
    ensure_models(directory)
    return Registry(directory)


def show_models(registry: Registry) -> None:
    """Lists the models of a directory."""
    columns = ("model", "dimension", "metric", "input", "MB", "text", "licence", "title")
    rows = [
        (
            card.ref,
            str(card.dimension),
            card.metric,
            f"{card.input.width} x {card.input.height}",
            f"{registry.path_of(card).stat().st_size / BYTES_PER_MB:.1f}",
            "yes" if card.text else "",
            card.licence,
            card.title,
        )
        for card in registry.cards()
    ]
    print_table(columns, rows)


def show_model(registry: Registry, ref: str) -> None:
    """Prints a card, less its golden embeddings."""
    click.echo(dump_card(registry.card(ref).model_copy(update={"golden": ()})), nl=False)


def verify_models(registry: Registry, refs: Sequence[str]) -> None:
    """Opens models, which compares SHA-256 and golden embeddings with the card.

    Raises:
        CommandFailed: One is refused.
    """
    n_refused = 0
    for ref in refs or [card.ref for card in registry.cards()]:
        try:
            embedder = registry.open(ref)
            if embedder.card.text:
                registry.open_text(ref)
        except TwinlensError as error:
            n_refused += 1
            click.echo(f"refused  {error.detail}")
        else:
            n_golden = len(embedder.card.golden)
            click.echo(f"ok       {embedder.card.ref}: {n_golden} golden pictures")
    if n_refused:
        raise CommandFailed(f"{n_refused} refused")


def bench_models(registry: Registry, refs: Sequence[str]) -> None:
    """Prints pictures a second of each model, on one core, all models in turn."""
    embedders = [registry.open(ref) for ref in refs or [card.ref for card in registry.cards()]]
    pictures = sorted((registry.directory / GOLDEN_DIRECTORY).glob("*.png"))
    pixels = {one.card.ref: read_pixels(pictures, one.card.input, 2) for one in embedders}
    times_s: dict[str, list[float]] = {ref: [] for ref in pixels}
    for _ in range(N_BENCH_ROUNDS):
        for embedder in embedders:
            taken_s = time_s(embedder, pixels[embedder.card.ref])
            times_s[embedder.card.ref].append(taken_s / len(pictures))
    rows = []
    for embedder in embedders:
        card, taken_s = embedder.card, median(times_s[embedder.card.ref])
        rows.append(
            (card.ref, f"{1 / taken_s:.1f}", f"{taken_s * 1000:.2f}", str(bytes_per_vector(card)))
        )
    print_table(("model", "pictures/s", "ms a picture", "bytes a vector"), rows)


def export_network(
    registry: Registry,
    network: str,
    *,
    weights: str,
    seed: int,
    pooling: str,
    name: str | None,
    version: str | None,
) -> None:
    """Exports a network of keras.applications by SavedModel and tf2onnx, and adds it."""
    from pathlib import Path  # noqa: PLC0415 (for a weights file)

    from twinlens.models.build.keras import export_keras  # noqa: PLC0415 (TensorFlow)

    source = weights if weights in ("imagenet", "random") else Path(weights)
    click.echo(f"exporting {network}, which takes a minute", err=True)
    made = export_keras(network, weights=source, seed=seed, pooling=pooling)
    told = {"imagenet": "ImageNet", "random": f"random weights, seed {seed}"}.get(weights, weights)
    card = _card(
        name=name or network.lower(),
        version=version or "1",
        title=f"{network}, {told}, {pooling}-pooled",
        input=made.input,
        dimension=made.dimension,
        licence="see keras.applications",
        source=f"keras.applications {network}, by tf2onnx",
    )
    _added(registry, card, made.model)
    click.echo(f"cosine to Keras: {made.cosine:.8f}")


def add_network(
    registry: Registry,
    file: Path,
    preprocessing: Preprocessing,
    *,
    name: str,
    title: str | None,
    licence: str,
    source: str,
    size: int | None,
    resize: str,
    crop: float | None,
    output: str | None,
    pool: Any,
    text: Path | None,
    tokenizer: Path | None,
    version: str | None,
) -> None:
    """Rewrites any ONNX network into the one form, and adds it.

    Raises:
        CommandFailed: A text encoder comes without its tokenizer, or the other way round.
    """
    from twinlens.models.build.adapt import adapt_graph, read_network  # noqa: PLC0415 (onnx)

    if (text is None) != (tokenizer is None):
        raise CommandFailed("a text encoder needs both --text and --tokenizer")
    made = adapt_graph(
        read_network(file),
        preprocessing,
        size_px=size,
        resample=Resample(resize),
        fit=Fit.SQUASH if crop is None else Fit.CROP,
        crop_fraction=crop or 1.0,
        output=output,
        pool=pool,
    )
    card = _card(
        name=name,
        version=version or "1",
        title=title or file.name,
        input=made.input,
        dimension=made.dimension,
        licence=licence,
        source=source,
    )
    if text is None or tokenizer is None:
        _added(registry, card, made.model)
        return
    spec = TextSpec(file="x", sha256=UNKNOWN, tokenizer="x", tokenizer_sha256=UNKNOWN)
    card = card.model_copy(update={"text": spec})
    _added(registry, card, made.model, (read_network(text), tokenizer.read_bytes()))


def quantize(registry: Registry, ref: str, photos: Path, version: str | None) -> None:
    """Makes an int8 version of a model, calibrated with photos, and compares it."""
    from twinlens.models.build.quantize import measure_ranges, quantize_model  # noqa: PLC0415 (slow)

    card, model = registry.read(ref)
    pixels = _photos(photos, card.input, N_COMPARED_PHOTOS)
    click.echo(f"calibrating with {min(len(pixels), N_CALIBRATION_PHOTOS)} photos", err=True)
    ranges = measure_ranges(model, (one[None] for one in pixels[:N_CALIBRATION_PHOTOS]))
    changed = quantize_model(model, ranges)
    made = card.model_copy(
        update={"version": version or f"{card.version}-int8", "title": f"{card.title} (int8)"}
    )
    _add_compared(registry, card, made, changed, pixels)


def project(
    registry: Registry, ref: str, *, dim: int, whiten: bool, photos: Path, version: str | None
) -> None:
    """Makes a version of a model with shorter embeddings, and compares it."""
    from twinlens.models.workbench.project import project_model  # noqa: PLC0415 (onnx)

    card, model = registry.read(ref)
    embedder = registry.open(ref)
    pixels = _photos(photos, card.input, N_PROJECTION_PHOTOS)
    click.echo(f"embedding {len(pixels)} photos", err=True)
    changed = project_model(model, embed_each(embedder, pixels), dim, whiten=whiten)
    kind = "white" if whiten else "pca"
    made = card.model_copy(
        update={
            "version": version or f"{card.version}-{kind}{dim}",
            "title": f"{card.title} ({kind} {dim})",
            "dimension": dim,
            "calibration": None,
        }
    )
    _add_compared(registry, card, made, changed, pixels[:N_COMPARED_PHOTOS])


def _add_compared(
    registry: Registry, card: Card, made: Card, model: bytes, pixels: list[Pixels]
) -> None:
    made = made.model_copy(update={"golden": (), "text": None})
    original = registry.open(card.ref)
    comparison = compare_models(original, OnnxEmbedder(made, model), pixels)
    _added(registry, made.model_copy(update={"comparison": comparison}), model)
    _say_comparison(comparison)


def _say_comparison(found: Comparison) -> None:
    click.echo(f"against {found.original}, over {found.n_pictures} pictures, one core:")
    click.echo(f"  speed             {found.speed_ratio:.2f} times")
    if found.mean_cosine is not None:
        click.echo(f"  mean cosine       {found.mean_cosine:.5f}")
    click.echo(f"  top-10 agreement  {found.top10_agreement:.4f}")
    click.echo(f"  bytes per vector  {found.bytes_per_vector}")


def _photos(folder: Path, spec: InputSpec, at_most: int) -> list[Pixels]:
    return read_pixels(find_files([folder]).pictures, spec, at_most)


def _card(**fields: Any) -> Card:
    """Returns the card of a new model; the registry fills in what it lacks."""
    return Card(file="x", sha256=UNKNOWN, output=OutputKind.FLOAT32, metric=Metric.L2, **fields)


def _added(
    registry: Registry, card: Card, model: bytes, text: tuple[bytes, bytes] | None = None
) -> None:
    added = registry.add(card, model, text)
    click.echo(
        f"added {added.ref}: {added.dimension}-d, {len(model) / BYTES_PER_MB:.1f} MB, "
        f"{registry.path_of(added)}"
    )
