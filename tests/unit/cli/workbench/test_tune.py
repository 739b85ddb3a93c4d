"""`twinlens tune`, as a user types it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.played import Service, as_json, as_json_page, listening
from support.records import image
from support.taught import write_network, write_taught

from twinlens.cli.main import main
from twinlens.models.build.linear import read_linear_map
from twinlens.models.card import Original
from twinlens.models.pictures import open_picture
from twinlens.models.registry import Registry
from twinlens.shared.answers import ImageVectors, Vector
from twinlens.shared.blobs import image_id_of
from twinlens.shared.libraries import new_library
from twinlens.workers.process.runtime import summary_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

OLD, TUNED = "cells@1", "cells@1-tuned"


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def directory(models: Path, tmp_path: Path) -> Path:
    """The shipped models, and one of cells."""
    network = write_network(tmp_path / "network.onnx")
    added = run("models", "add", network, "--name", "cells", "--dir", models)
    assert added.exit_code == 0, added.output
    return models


@pytest.fixture
def place(directory: Path, tmp_path: Path) -> tuple[object, ...]:
    return ("--dir", directory, "--cache", tmp_path / "cache")


def embed(directory: Path, ref: str, files: list[Path]) -> NDArray[Any]:
    model = Registry(directory).open(ref)
    pixels = [open_picture(file.read_bytes()).pixels_for(model.card.input) for file in files]
    return model.embed_batch(np.stack(pixels))


def test_what_helps_becomes_a_version_that_is_a_linear_map_of_the_old(
    directory: Path, place: tuple[object, ...], tmp_path: Path
) -> None:
    labels = write_taught(tmp_path / "taught")

    done = run("tune", labels, "--models", "cells,phash", *place, "--json")

    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["made"] == {"cells": TUNED}
    assert told["fused"]["gain"]["low"] > 0
    assert (told["n_pictures"], told["n_labels"]) == (96, 16)
    assert "Tuning cells helps to find things that taught nothing: mAP 0." in done.stderr
    card = Registry(directory).card(TUNED)
    old = Registry(directory).card(OLD)
    assert card.linear_of == Original(ref=OLD, sha256=old.sha256)
    assert card.calibration is not None
    assert card.calibrated_on == "photos"
    assert card.title == f"{old.title} (tuned by 16 labels)"
    files = sorted((tmp_path / "taught" / "photos").iterdir())
    linear = read_linear_map(Registry(directory).read(TUNED)[1])
    computed = linear.apply(embed(directory, OLD, files))
    assert embed(directory, TUNED, files) == pytest.approx(computed, abs=1e-5)


@pytest.mark.parametrize(
    ("n_labels", "model", "is_told"), [(10, OLD, True), (9, OLD, False), (10, "phash", False)]
)
def test_an_evaluation_names_it_to_whom_it_may_help(
    place: tuple[object, ...], tmp_path: Path, n_labels: int, model: str, *, is_told: bool
) -> None:
    labels = write_taught(tmp_path / "taught", n_labels, 3)
    report = ("--report", tmp_path / "report.html")

    done = run("evaluate", labels, "--models", model, *report, *place)

    assert done.exit_code == 0, done.output
    assert (f"`twinlens tune {labels}` measures" in done.stdout.replace("\n", " ")) == is_told


def test_what_does_not_help_is_not_made(
    directory: Path, place: tuple[object, ...], tmp_path: Path
) -> None:
    labels = write_taught(tmp_path / "taught", shown=False)

    done = run("tune", labels, "--models", "cells", "--apply", *place)

    assert done.exit_code == 1
    assert "tuning is no clear help to find things that taught nothing: mAP 0." in done.stderr
    assert "cells" in done.stdout, "the figures are shown all the same"
    assert TUNED not in [card.ref for card in Registry(directory).cards()]


@pytest.mark.parametrize(
    ("n_labels", "n_of_each", "said"),
    [
        (1, 20, "labels.csv has 1 labels; at least 2 are needed"),
        (5, 4, "20 pictures of 5 labels are too few to tell whether tuning helps"),
        (30, 2, "no label has 3 pictures"),
    ],
)
def test_too_few_labels_are_told_before_anything_is_embedded(
    place: tuple[object, ...], tmp_path: Path, n_labels: int, n_of_each: int, said: str
) -> None:
    labels = write_taught(tmp_path / "taught", n_labels, n_of_each)

    done = run("tune", labels, "--models", "cells", *place)

    assert done.exit_code == 1
    assert said in done.stderr
    assert not (tmp_path / "cache").exists()


def test_models_that_cannot_be_tuned_are_refused(place: tuple[object, ...], tmp_path: Path) -> None:
    labels = write_taught(tmp_path / "taught")
    assert run("tune", labels, "--models", "cells", *place).exit_code == 0

    hashed = run("tune", labels, "--models", "phash", *place)
    again = run("tune", labels, "--models", "cells@1", *place)
    twice = run("tune", labels, "--models", TUNED, *place)

    assert [each.exit_code for each in (hashed, again, twice)] == [1, 1, 1]
    assert "hashes cannot be tuned" in hashed.stderr
    assert f"model {TUNED} is there already" in again.stderr
    assert "projected already, or tuned. Pass the model it was made from" in twice.stderr
    other = run("tune", labels, "--models", "cells@1", "--version", "mine", *place)
    assert other.exit_code == 0, other.output


@pytest.mark.parametrize(
    "words", [(), ("labels.csv", "--by", "kind"), ("--by", "kind", "--models", "cells")]
)
def test_labels_are_a_list_or_a_field(tmp_path: Path, words: tuple[str, ...]) -> None:
    labels = write_taught(tmp_path / "taught")
    done = run("tune", *(labels if word == "labels.csv" else word for word in words))
    assert done.exit_code == 2, done.output


@pytest.fixture
def service(directory: Path, tmp_path: Path) -> Service:
    """A service whose library has the taught pictures, with a field that says what they show."""
    write_taught(tmp_path / "taught")
    files = sorted((tmp_path / "taught" / "photos").iterdir())
    rows = embed(directory, OLD, files)
    service, library = (
        Service(),
        new_library("art", [OLD]).model_copy(update={"weights": {"cells": 2.0}}),
    )
    images = [
        image(image_id_of(file.read_bytes()), file.name, "art").model_copy(
            update={"metadata": {"kind": file.name.partition("-")[0]}}
        )
        for file in files
    ]
    images.append(image("f" * 64, "bare.png", "art"))
    service.answers["/v1/images"] = lambda _: as_json_page(images)
    for one, row in zip(images, rows, strict=False):
        vector = Vector(model=OLD, metric="L2", dtype="float32", values=row.tolist())
        service.answers[f"/v1/images/{one.id}/vectors"] = partial(
            lambda answer, _: answer, as_json(ImageVectors(items=[vector]))
        )

    def served(_: httpx.Request) -> httpx.Response:
        return as_json_page([summary_of(card) for card in Registry(directory).cards()])

    def put_or_get(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return as_json(library)
        plan = json.loads(request.content)
        return as_json(library.model_copy(update={"models": plan["models"]}))

    service.answers["/v1/models"] = served
    service.answers["/v1/libraries/art"] = put_or_get
    return service


def test_a_library_teaches_by_a_field_and_gets_the_new_version(
    service: Service, directory: Path, place: tuple[object, ...]
) -> None:
    with listening(service) as url:
        asked = ("tune", "--by", "kind", "--library", "art", "--url", url, "--apply", *place)
        done = run(*asked)

    assert done.exit_code == 0, done.output
    assert f"library art at {url} now has {TUNED}" in done.stdout
    [put] = [one for one in service.requests if one.method == "PUT"]
    plan = json.loads(put.content)
    assert (plan["models"], plan["weights"]) == ([TUNED], {"cells": 2.0})
    assert Registry(directory).card(TUNED).calibrated_on == "art"


def test_a_field_that_no_image_has_teaches_nothing(
    service: Service, place: tuple[object, ...]
) -> None:
    with listening(service) as url:
        done = run("tune", "--by", "shade", "--library", "art", "--url", url, *place)

    assert done.exit_code == 1
    assert "no image of library art has one value of shade" in done.stderr


def test_a_library_without_the_models_is_left_as_it_is(
    service: Service, place: tuple[object, ...], tmp_path: Path
) -> None:
    service.answers["/v1/libraries/art"] = lambda _: as_json(new_library("art", ["phash@1"]))
    with listening(service) as url:
        labels = tmp_path / "taught" / "labels.csv"
        asked = ("tune", labels, "--models", "cells", "--library", "art", "--url", url, "--apply")
        done = run(*asked, *place)

    assert done.exit_code == 1
    assert "library art has phash@1 and none of cells@1: tune those with --models" in done.stderr
