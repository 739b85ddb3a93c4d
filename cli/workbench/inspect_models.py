"""`twinlens models list`, `show`, `verify` and `bench`: what the models of a directory are."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from twinlens.cli.errors import CommandFailed
from twinlens.cli.output import say, show
from twinlens.cli.show.tables import MIN_NAME_CHARS, Column, named, print_table
from twinlens.client.client import Client
from twinlens.models.card import Card, dump_card
from twinlens.models.registry import Registry, ensure_models
from twinlens.models.verify import GOLDEN_DIRECTORY
from twinlens.models.workbench.compare import bytes_per_vector, read_pixels, time_s
from twinlens.shared.errors import TwinlensError
from twinlens.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
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
    cards = registry.cards()
    show({"items": [_described(card) for card in cards]}, lambda: _print_cards(registry, cards))


def show_served_models(url: str) -> None:
    """Lists the models that are served."""
    with Client(url) as client:
        models = client.models()
    columns = (
        named("model"),
        "version",
        Column("dimension", leave_out=2),
        Column("metric", leave_out=3),
        Column("weight", leave_out=1),
        Column("licence", leave_out=4),
        Column("title", MIN_NAME_CHARS, leave_out=5),
    )
    rows = [
        (
            model.name,
            model.version,
            str(model.dimension),
            model.metric,
            f"{model.weight:g}",
            model.licence,
            model.title,
        )
        for model in models
    ]
    show({"items": models}, lambda: print_table(columns, rows))


def show_model(registry: Registry, ref: str) -> None:
    """Prints a card without its golden embeddings, with all defaults, and names what it lacks."""
    card = registry.card(ref)
    show(_described(card), lambda: _print_card(card))


def show_made(registry: Registry, ref: str) -> None:
    """Ends a command that made a model or changed its card, and told so: with the card as JSON."""
    show(_described(registry.card(ref)), lambda: None)


def verify_models(registry: Registry, refs: Sequence[str]) -> None:
    """Opens models, which checks their SHA-256 and golden embeddings against the card.

    Raises:
        CommandFailed: One is refused.
    """
    verified = [_verify(registry, ref) for ref in refs or [one.ref for one in registry.cards()]]
    show({"items": verified}, lambda: _print_verified(verified))
    n_refused = sum(one.refused is not None for one in verified)
    if n_refused:
        raise CommandFailed(f"{n_refused} refused")


def bench_models(registry: Registry, refs: Sequence[str]) -> None:
    """Prints the pictures per second of each model on one core; the models take turns."""
    benched = _bench(registry, refs or [card.ref for card in registry.cards()])
    show({"items": [one.figures for one in benched]}, lambda: _print_benched(benched))


def speed_of(registry: Registry, ref: str) -> float:
    """Returns how many pictures a second a model embeds on one core."""
    [benched] = _bench(registry, [ref])
    return 1 / benched.taken_s


def _bench(registry: Registry, refs: Sequence[str]) -> list[_Benched]:
    embedders = [registry.open(ref) for ref in refs]
    pictures = sorted((registry.directory / GOLDEN_DIRECTORY).glob("*.png"))
    pixels = {one.card.ref: read_pixels(pictures, one.card.input, 2) for one in embedders}
    times_s: dict[str, list[float]] = {ref: [] for ref in pixels}
    for _ in range(N_BENCH_ROUNDS):
        for embedder in embedders:
            taken_s = time_s(embedder, pixels[embedder.card.ref])
            times_s[embedder.card.ref].append(taken_s / len(pictures))
    return [_Benched(one.card, median(times_s[one.card.ref])) for one in embedders]


class _Verified(NamedTuple):
    """A model that is right, or why it is refused."""

    model: str
    golden_pictures: int = 0
    refused: str | None = None


def _verify(registry: Registry, ref: str) -> _Verified:
    try:
        embedder = registry.open(ref)
        if embedder.card.text:
            registry.open_text(ref)
    except TwinlensError as error:
        return _Verified(ref, refused=error.detail)
    return _Verified(embedder.card.ref, len(embedder.card.golden))


def _print_verified(verified: Sequence[_Verified]) -> None:
    for one in verified:
        if one.refused is None:
            say(f"ok       {one.model}: {one.golden_pictures} golden pictures")
        else:
            say(f"refused  {one.refused}")


class _Benched(NamedTuple):
    """How long a model took for a picture."""

    card: Card
    taken_s: float

    @property
    def figures(self) -> dict[str, str | float]:
        return {
            "model": self.card.ref,
            "pictures_per_s": 1 / self.taken_s,
            "picture_ms": self.taken_s * 1000,
            "vector_bytes": bytes_per_vector(self.card),
        }


def _print_benched(benched: Sequence[_Benched]) -> None:
    rows = [
        (
            one.card.ref,
            f"{1 / one.taken_s:.1f}",
            f"{one.taken_s * 1000:.2f}",
            str(bytes_per_vector(one.card)),
        )
        for one in benched
    ]
    print_table((named("model"), "pictures/s", "ms per picture", "bytes per vector"), rows)


def _described(card: Card) -> dict[str, Any]:
    """A card as JSON has it: what it says, and its name and version in one."""
    return {"model": card.ref, **card.model_dump(mode="json", exclude={"golden"})}


def _print_card(card: Card) -> None:
    card = card.model_copy(update={"golden": ()})
    for line in dump_card(card).splitlines():
        say(line)
    if lacking := ", ".join(_lacking(card.model_dump())):
        say()
        say(f"# none: {lacking}")


def _lacking(fields: Mapping[str, object]) -> Iterator[str]:
    """Gives the names of fields that are None, with a point before those of a part."""
    for name, value in fields.items():
        if value is None:
            yield name
        elif isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in _lacking(value))


def _print_cards(registry: Registry, cards: Sequence[Card]) -> None:
    columns = (
        named("model"),
        "dimension",
        Column("metric", leave_out=1),
        Column("input", leave_out=2),
        Column("MB", leave_out=3),
        Column("text", leave_out=5),
        Column("licence", leave_out=4),
        Column("title", MIN_NAME_CHARS, leave_out=6),
    )
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
        for card in cards
    ]
    print_table(columns, rows)
