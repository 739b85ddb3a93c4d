"""`twinlens tune`: new versions of models, learned from labels, where these help."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from twinlens.cli.errors import CommandFailed
from twinlens.cli.output import say, show
from twinlens.cli.show.libraries import change_library, told_models
from twinlens.cli.show.tables import Column, named, print_table
from twinlens.cli.upload.index import OUTAGE_S
from twinlens.cli.workbench.evaluate import (
    N_CALIBRATED,
    embed_with_progress,
    folder_of,
    interval,
    show_progress,
)
from twinlens.cli.workbench.make_models import tell_of_words
from twinlens.client.client import Client
from twinlens.models.build.linear import add_linear_map, check_can_map
from twinlens.models.calibration import measure_model
from twinlens.models.card import Original, OutputKind
from twinlens.models.errors import BadInput
from twinlens.models.workbench.embeddings import Embedded
from twinlens.models.workbench.labels import Labelled, read_labels
from twinlens.models.workbench.tune import (
    N_SPLITS,
    check_enough_labels,
    learn_maps,
    measure_tuning,
    pictures_of,
)
from twinlens.shared.answers import LibraryPlan
from twinlens.shared.filters.fields import fields_of
from twinlens.shared.filters.language import parse_field
from twinlens.shared.libraries import Library

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from twinlens.models.bits import Embeddings
    from twinlens.models.build.linear import LinearMap
    from twinlens.models.calibration import Calibration
    from twinlens.models.card import Card
    from twinlens.models.registry import Registry
    from twinlens.models.workbench.tune import Gain, Tuning
    from twinlens.shared.messages import Image

# Of a library's labelled images, the newest teach: each is read with a request of its own.
N_READ = 5_000
PAGE = 200
# A worker looks for new models every ten seconds.
SEEN_S, LOOK_S = 60.0, 1.0


class Taught:
    """What teaches: embedded pictures and their labels, and the models, with what they weigh.

    `photos` names where the pictures are from: a folder, or a library.
    """

    def __init__(
        self,
        cards: Sequence[Card],
        embedded: Embedded,
        labelled: Sequence[Labelled],
        weights: Mapping[str, float],
        photos: str,
    ) -> None:
        self.cards = {
            name: next(card for card in cards if name in (card.name, card.ref))
            for name in embedded.rows
        }
        self.embedded, self.labelled, self.photos = embedded, labelled, photos
        self.weights = {
            name: weights.get(card.name, card.weight) for name, card in self.cards.items()
        }


def tell_of_tuning(
    registry: Registry, labels: Path, pictures: Sequence[Labelled], refs: Sequence[str]
) -> None:
    """Names `twinlens tune` if a list may teach one of the models."""
    cards = [registry.card(ref) for ref in refs]
    if not any(card.output is OutputKind.FLOAT32 and card.linear_of is None for card in cards):
        return
    with suppress(BadInput):
        check_enough_labels(Counter(one.label for one in pictures if one.label))
        say(f"`twinlens tune {labels}` measures whether these labels can teach the models more")


def read_list(registry: Registry, labels: Path, refs: Sequence[str], cache: Path) -> Taught:
    """Embeds the pictures of a CSV of `file` and `label`."""
    labelled = read_labels(labels)
    check_enough_labels(Counter(one.label for one in labelled if one.label))
    embedders = [registry.open(ref) for ref in refs]
    embedded = embed_with_progress(embedders, [one.path for one in labelled], cache)
    cards = [each.card for each in embedders]
    return Taught(cards, embedded, labelled, {}, folder_of(embedded.files))


def read_library(registry: Registry, url: str, library: str, field: str) -> Taught:
    """Reads the vectors of a library's images that have a field, which is their label.

    Raises:
        CommandFailed: No image has it.
        BadInput: It has too few values, or too few images have vectors.
    """
    wanted = parse_field(field)
    with Client(url, outage_s=OUTAGE_S) as client:
        there = client.library(library)
        cards = [registry.card(ref) for ref in there.models]
        labels: dict[str, str] = {}
        for image in _images(client, library):
            label = fields_of(image).get(wanted)
            if label is not None and not isinstance(label, list):
                labels[image.id] = str(label)
            if len(labels) == N_READ:
                say(f"the newest {N_READ} images that have {field} teach", is_error=True)
                break
        if not labels:
            raise CommandFailed(f"no image of library {library} has one value of {field}")
        check_enough_labels(Counter(labels.values()))
        rows = _read_rows(client, library, list(labels), cards)
    ids = [image_id for image_id in labels if all(image_id in one for one in rows.values())]
    check_enough_labels(Counter(labels[image_id] for image_id in ids))
    embedded = Embedded(
        tuple(map(Path, ids)),
        tuple(ids),
        {card.name: np.stack([rows[card.ref][image_id] for image_id in ids]) for card in cards},
        {card.name: card for card in cards},
    )
    labelled = [Labelled(Path(one), labels[one]) for one in ids]
    return Taught(cards, embedded, labelled, there.weights, library)


def run_tune(registry: Registry, taught: Taught, version: str | None) -> dict[str, str]:
    """Measures what tuning changes, prints a table, and adds the versions that help.

    Args:
        registry: The models.
        taught: From `read_list` or `read_library`.
        version: Of the new models, in place of the old one and "-tuned".

    Returns:
        The new versions by those that they were made from, as name@version.

    Raises:
        CommandFailed: Tuning does not help.
    """
    # Before minutes pass.
    made = {
        name: f"{card.version}-tuned" if version is None else version
        for name, card in taught.cards.items()
        if card.output is OutputKind.FLOAT32
    }
    for name, new in made.items():
        card, model = registry.read(taught.cards[name].ref)
        check_can_map(model)
        registry.check_new(card.name, new)
    with show_progress("halves of the labels", 2 * N_SPLITS) as on_progress:
        tuning = measure_tuning(taught.embedded, taught.labelled, taught.weights, on_progress)
    refs = {name: f"{taught.cards[name].name}@{made[name]}" for name in tuning.helped}
    show(vars(tuning) | {"made": refs}, lambda: _print_tuning(tuning))
    if not tuning.helped:
        raise CommandFailed(tuning.sentence)
    say(tuning.sentence)
    for name, linear in learn_maps(taught.embedded, taught.labelled, tuning.helped).items():
        _add(registry, taught, name, made[name], linear)
    return {taught.cards[name].ref: ref for name, ref in refs.items()}


def apply_versions(url: str, library: str, made: Mapping[str, str]) -> None:
    """Gives a library the new versions in place of the old, and waits until it has them.

    Raises:
        CommandFailed: The library has none of the old ones, or no worker has the new.
    """
    with Client(url, outage_s=OUTAGE_S) as client:
        there = client.library(library)
        models = [made.get(ref, ref) for ref in there.models]
        if models == there.models:
            raise CommandFailed(
                f"library {library} has {', '.join(there.models)} and none of {', '.join(made)}: "
                "tune those with --models"
            )
        _wait_until_served(client, set(models))
        plan = LibraryPlan(
            models=models, weights=there.weights, metric=there.metric, index=there.index
        )
        changed = change_library(client, library, plan)
        assert isinstance(changed, Library)
        say(told_models(client, changed))


def _images(client: Client, library: str) -> Iterator[Image]:
    """The library's images, the newest first."""
    cursor: str | None = None
    while True:
        page = client.images(library, PAGE, cursor)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


def _read_rows(
    client: Client, library: str, ids: Sequence[str], cards: Sequence[Card]
) -> dict[str, dict[str, Embeddings]]:
    """Embeddings by model, as name@version, and by image id."""
    rows: dict[str, dict[str, Embeddings]] = {card.ref: {} for card in cards}
    with show_progress("reading vectors", len(ids)) as on_progress:
        for n_read, image_id in enumerate(ids, start=1):
            for vector in client.vectors(image_id, library).items:
                if vector.model in rows:
                    rows[vector.model][image_id] = np.array(vector.values, vector.dtype)
            on_progress(n_read)
    return rows


def _add(registry: Registry, taught: Taught, name: str, version: str, linear: LinearMap) -> None:
    card, model = registry.read(taught.cards[name].ref)
    n_labels = len({one.label for one in taught.labelled if one.label})
    calibration = _calibrate(taught, name, linear)
    made = card.model_copy(
        update={
            "version": version,
            "title": f"{card.title} (tuned by {n_labels} labels)",
            "calibration": calibration,
            "calibrated_on": taught.photos if calibration else None,
            "text": None,
            "comparison": None,
            "linear_of": Original(ref=card.ref, sha256=card.sha256),
            "golden": (),
        }
    )
    added = registry.add(made, add_linear_map(model, linear))
    say(f"added {added.ref}: {registry.path_of(added)}")
    tell_of_words(card, added)


def _calibrate(taught: Taught, name: str, linear: LinearMap) -> Calibration | None:
    pictures = pictures_of(taught.embedded, taught.labelled)
    some = np.random.default_rng(0).permutation(len(pictures.codes))[:N_CALIBRATED]
    rows = pictures.embedded.rows[name][some]
    try:
        return measure_model(linear.apply(rows), pictures.codes[some])
    except ValueError:
        # Too few: the library measures itself.
        return None


def _print_tuning(tuning: Tuning) -> None:
    columns = (
        named("models"),
        "mAP",
        "tuned",
        "gain",
        Column("95 % of gain", leave_out=1),
        Column("P@5", leave_out=3),
        Column("tuned", leave_out=2),
    )
    gains = dict.fromkeys([*tuning.by_model.values(), tuning.fused])
    judged = "" if tuning.n_judged == tuning.n_pictures else f", judged by {tuning.n_judged}"
    print_table(
        columns,
        [_row(gain) for gain in gains],
        f"{tuning.n_pictures} pictures of {tuning.n_labels} labels{judged}; each half of the labels"
        " teaches, and the pictures of the other are searched among themselves",
    )


def _row(one: Gain) -> tuple[str, ...]:
    return (
        one.title,
        f"{one.before.value:.3f}",
        f"{one.after.value:.3f}",
        f"{one.gain.value:+.3f}",
        interval(one.gain, sign="+"),
        f"{one.at_5_before.value:.3f}",
        f"{one.at_5_after.value:.3f}",
    )


def _wait_until_served(client: Client, refs: set[str]) -> None:
    until = time.monotonic() + SEEN_S
    while missing := refs - {f"{one.name}@{one.version}" for one in client.models()}:
        if time.monotonic() > until:
            raise CommandFailed(
                f"no worker of {client.url} has {', '.join(sorted(missing))}: copy the new files "
                "from this directory of models to the service's, and apply them with "
                "`twinlens libraries set`"
            )
        time.sleep(LOOK_S)
