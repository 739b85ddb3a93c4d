"""`twinlens models list`, `show`, `verify` and `bench`: what the models of a directory are."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import click

from twinlens.cli.errors import CommandFailed
from twinlens.cli.show.tables import print_table
from twinlens.models.card import dump_card
from twinlens.models.registry import Registry, ensure_models
from twinlens.models.verify import GOLDEN_DIRECTORY
from twinlens.models.workbench.compare import bytes_per_vector, read_pixels, time_s
from twinlens.shared.errors import TwinlensError
from twinlens.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

N_BENCH_ROUNDS = 9
BYTES_PER_MB = 1_000_000


def registry_of(directory: Path | None) -> Registry:
    """Opens a directory of models, by default the data directory's, and builds the shipped ones."""
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
    """Prints a card without its golden embeddings."""
    click.echo(dump_card(registry.card(ref).model_copy(update={"golden": ()})), nl=False)


def verify_models(registry: Registry, refs: Sequence[str]) -> None:
    """Opens models, which checks their SHA-256 and golden embeddings against the card.

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
    """Prints the pictures per second of each model on one core; the models take turns."""
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
    print_table(("model", "pictures/s", "ms per picture", "bytes per vector"), rows)
