"""`twinlens models export`, `add`, `quantize` and `project`: new models for a directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from twinlens.cli.errors import CommandFailed
from twinlens.cli.files import checked, read_json
from twinlens.cli.output import say
from twinlens.cli.upload.files import find_pictures
from twinlens.cli.workbench.inspect_models import BYTES_PER_MB
from twinlens.models.card import (
    MAX_TEMPLATES,
    WORDS_PLACE,
    Card,
    Original,
    OutputKind,
    TextSpec,
)
from twinlens.models.distances import Metric
from twinlens.models.session import OnnxEmbedder
from twinlens.models.workbench.compare import compare_models, embed_each, read_pixels
from twinlens.shared.names import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from twinlens.models.build.adapt import Pool
    from twinlens.models.build.presets import Preset
    from twinlens.models.card import InputSpec, ModelComparison
    from twinlens.models.registry import Registry
    from twinlens.models.session import Pixels

# Activations' ranges hardly change after so many photos.
N_CALIBRATION_PHOTOS = 100
# What the figures of a comparison are of: enough for a per cent, few enough to wait for.
N_COMPARED_PHOTOS = 200
# PCA needs more pictures than dimensions; past this many it gains nothing.
N_PROJECTION_PHOTOS = 10_000
FIRST_VERSION = "1"
# What the registry fills in, in a form that a card accepts.
UNKNOWN_FILE, UNKNOWN_SHA256 = "x", "0" * 64
CLIP_TOKENS = 77


class NetworkOptions(TypedDict):
    """The options of `models add` that are not about pixels, by their names."""

    name: str
    title: str | None
    licence: str
    source: str
    size: int | None
    output: str | None
    pool: Pool
    text: Path | None
    tokenizer: Path | None
    templates: tuple[str, ...]
    version: str | None


def export_network(
    registry: Registry,
    network: str,
    *,
    weights: str,
    seed: int,
    pooling: str,
    name: str | None,
    version: str | None,
) -> str:
    """Exports a network of keras.applications by SavedModel and tf2onnx, and adds it.

    Returns:
        The new model, as name@version; so do the others.
    """
    from pathlib import Path  # noqa: PLC0415 (for a weights file)

    from twinlens.models.build.keras import export_keras  # noqa: PLC0415 (TensorFlow)

    name, version = name or network.lower(), version or FIRST_VERSION
    registry.check_new(name, version)
    source = weights if weights in ("imagenet", "random") else Path(weights)
    say(f"exporting {network}, which takes a minute", is_error=True)
    exported = export_keras(network, weights=source, seed=seed, pooling=pooling)
    origins = {"imagenet": "ImageNet", "random": f"random weights, seed {seed}"}
    card = new_card(
        name=name,
        version=version,
        title=f"{network}, {origins.get(weights, weights)}, {pooling}-pooled",
        spec=exported.input,
        dimension=exported.dimension,
        licence="see keras.applications",
        source=f"keras.applications {network}, by tf2onnx",
    )
    ref = add_card(registry, card, exported.model)
    say(f"cosine to Keras: {exported.cosine:.8f}")
    return ref


def add_network(
    registry: Registry,
    file: Path,
    preset: Preset,
    options: NetworkOptions,
) -> str:
    """Rewrites any ONNX network into the one form, and adds it.

    Raises:
        CommandFailed: A text encoder comes without its tokenizer, or the other way round, or
            templates without both.
    """
    from twinlens.models.build.adapt import adapt_graph, read_network  # noqa: PLC0415 (onnx)

    version = options["version"] or FIRST_VERSION
    registry.check_new(options["name"], version)
    text = _read_text(options["text"], options["tokenizer"])
    _check_templates(options["templates"], has_text=text is not None)
    adapted = adapt_graph(
        read_network(checked(file)),
        preset.preprocessing,
        resizing=preset.resizing,
        size_px=options["size"],
        output=options["output"],
        pool=options["pool"],
    )
    card = new_card(
        name=options["name"],
        version=version,
        title=options["title"] or printable(file.name),
        spec=adapted.input,
        dimension=adapted.dimension,
        licence=options["licence"],
        source=options["source"],
    )
    if text is not None:
        templates = options["templates"] or (WORDS_PLACE,)
        card = card.model_copy(update={"text": text_spec(templates)})
    return add_card(registry, card, adapted.model, text)


def quantize(registry: Registry, ref: str, photos: Path, version: str | None) -> str:
    """Makes an int8 version of a model, calibrated with photos, and compares it.

    A text encoder goes with it as it is: the embeddings are of the same space, and a text is
    embedded once a search, pictures by the million.
    """
    from twinlens.models.build.quantize import measure_ranges, quantize_model  # noqa: PLC0415 (slow)

    card, model = registry.read(ref)
    version = version or f"{card.version}-int8"
    registry.check_new(card.name, version)
    pixels = read_pixels(find_pictures(photos), card.input, N_COMPARED_PHOTOS)
    say(f"calibrating with {min(len(pixels), N_CALIBRATION_PHOTOS)} photos", is_error=True)
    ranges = measure_ranges(model, (one[None] for one in pixels[:N_CALIBRATION_PHOTOS]))
    changed = quantize_model(model, ranges)
    made = card.model_copy(
        update={"version": version, "title": f"{card.title} (int8)", "linear_of": None}
    )
    return _add_compared(registry, card, made, changed, pixels)


def project(
    registry: Registry, ref: str, *, dim: int, whiten: bool, photos: Path, version: str | None
) -> str:
    """Makes a version of a model with shorter embeddings, and compares it.

    A text encoder stays behind: its embeddings are of the space before.
    """
    from twinlens.models.workbench.project import (  # noqa: PLC0415 (onnx)
        check_projection,
        project_model,
    )

    card, model = registry.read(ref)
    kind = "white" if whiten else "pca"
    version = version or f"{card.version}-{kind}{dim}"
    registry.check_new(card.name, version)
    files = find_pictures(photos)[:N_PROJECTION_PHOTOS]
    check_projection(model, card.dimension, dim, len(files))
    embedder = registry.open(ref)
    pixels = read_pixels(files, card.input, N_PROJECTION_PHOTOS)
    say(f"embedding {len(pixels)} photos", is_error=True)
    changed = project_model(model, embed_each(embedder, pixels), dim, whiten=whiten)
    made = card.model_copy(
        update={
            "version": version,
            "title": f"{card.title} ({kind} {dim})",
            "dimension": dim,
            "calibration": None,
            "calibrated_on": None,
            "text": None,
            "linear_of": Original(ref=card.ref, sha256=card.sha256),
        }
    )
    tell_of_words(card, made)
    return _add_compared(registry, card, made, changed, pixels[:N_COMPARED_PHOTOS])


def tell_of_words(card: Card, made: Card) -> None:
    """Says where a model's text encoder stays, if it has one."""
    if card.text:
        say(f"words are not embedded under {made.ref}: the text encoder stays with {card.ref}")


def _add_compared(
    registry: Registry, card: Card, made: Card, model: bytes, pixels: list[Pixels]
) -> str:
    made = made.model_copy(update={"golden": ()})
    original = registry.open(card.ref)
    comparison = compare_models(original, OnnxEmbedder(made, model), pixels)
    text = registry.read_text(made)
    ref = add_card(registry, made.model_copy(update={"comparison": comparison}), model, text)
    _print_comparison(comparison)
    return ref


def _print_comparison(comparison: ModelComparison) -> None:
    say(f"against {comparison.original}, over {comparison.n_pictures} pictures, one core:")
    say(f"  speed             {comparison.speed_ratio:.2f} times")
    if comparison.mean_cosine is not None:
        say(f"  mean cosine       {comparison.mean_cosine:.5f}")
    say(f"  top-10 agreement  {comparison.top10_agreement:.4f}")
    say(f"  bytes per vector  {comparison.bytes_per_vector}")


def _check_templates(templates: Sequence[str], *, has_text: bool) -> None:
    if templates and not has_text:
        raise CommandFailed("--template is for a text encoder: give --text and --tokenizer too")
    if len(templates) > MAX_TEMPLATES:
        raise CommandFailed(f"{len(templates)} templates: give {MAX_TEMPLATES} at most")


def _read_text(graph: Path | None, tokenizer: Path | None) -> tuple[bytes, bytes] | None:
    from twinlens.models.build.adapt import read_network  # noqa: PLC0415 (onnx)

    if graph is not None and tokenizer is not None:
        return read_network(checked(graph)), read_json(tokenizer)
    if graph is not None or tokenizer is not None:
        raise CommandFailed("a text encoder needs both --text and --tokenizer")
    return None


def text_spec(
    templates: tuple[str, ...] = (WORDS_PLACE,), max_tokens: int = CLIP_TOKENS
) -> TextSpec:
    """Returns what a new model's card says of its text encoder, as `new_card` does."""
    return TextSpec(
        file=UNKNOWN_FILE,
        sha256=UNKNOWN_SHA256,
        tokenizer=UNKNOWN_FILE,
        tokenizer_sha256=UNKNOWN_SHA256,
        max_tokens=max_tokens,
        templates=templates,
    )


def new_card(
    *,
    name: str,
    version: str,
    title: str,
    spec: InputSpec,
    dimension: int,
    licence: str,
    source: str,
) -> Card:
    """Returns the card of a new model; the registry fills in what it lacks."""
    return Card(
        name=name,
        version=version,
        title=title,
        file=UNKNOWN_FILE,
        sha256=UNKNOWN_SHA256,
        output=OutputKind.FLOAT32,
        dimension=dimension,
        metric=Metric.L2,
        licence=licence,
        source=source,
        input=spec,
    )


def add_card(
    registry: Registry, card: Card, model: bytes, text: tuple[bytes, bytes] | None = None
) -> str:
    """Adds a model to a directory, and says so: returns its name@version."""
    added = registry.add(card, model, text)
    say(
        f"added {added.ref}: {added.dimension}-d, {len(model) / BYTES_PER_MB:.1f} MB, "
        f"{registry.path_of(added)}"
    )
    return added.ref
