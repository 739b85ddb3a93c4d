"""`twinlens evaluate --coco`, and two libraries compared, as a user types them."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from support.paths import FIXTURES
from support.played import Service, as_json, listening
from support.tiny_networks import anchored
from support.tiny_pair import pair_card, picture_graph, text_graph, tokenizer_file

from twinlens.cli.main import main
from twinlens.cli.workbench.evaluate_commands import evaluate_models
from twinlens.models.registry import Registry
from twinlens.models.workbench.evaluate import N_QUERIES
from twinlens.shared.libraries import Library, new_library

COLOURS = {"red": (250, 20, 20), "green": (20, 250, 20), "blue": (20, 20, 250)}
SETS = (("red",), ("green",), ("blue",), ("green", "red"), ("blue", "green", "red"))
N_EACH = 6
# A file's name, and what is on it.
Seen = tuple[str, tuple[str, ...]]
MODELS = ("--models", "colours,shapes")


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def succeed(*words: object) -> Result:
    done = run(*words)
    assert done.exit_code == 0, done.output
    return done


def fail(*words: object, status: int = 1) -> str:
    done = run(*words)
    assert done.exit_code == status, done.output
    assert "Traceback" not in done.output
    return done.stderr


@pytest.fixture(scope="module")
def folder(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in stripes of the colours that a COCO file has for them, and two small models."""
    folder = tmp_path_factory.mktemp("coco")
    rng = np.random.default_rng(0)
    names = {}
    for place in range(len(SETS) * N_EACH):
        stripes = [COLOURS[one] for one in SETS[place % len(SETS)]]
        pixels = np.repeat(np.array(stripes), 24 // len(stripes), axis=0)
        noisy = pixels[:, np.newaxis] + rng.normal(0, 25, (len(pixels), 24, 3))
        names[place] = f"{place:012}.png"
        (folder / "val").mkdir(exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / "val" / names[place])
    write_coco(folder / "instances.json", [(names[p], SETS[p % len(SETS)]) for p in names])
    shutil.copytree(built, folder / "models")
    (folder / "colours.onnx").write_bytes(anchored("nchw"))
    for name, network in (
        ("colours", folder / "colours.onnx"),
        ("shapes", FIXTURES / "torch_small.onnx"),
    ):
        succeed("models", "add", network, "--name", name, "--dir", folder / "models")
    return folder


def write_coco(path: Path, images: list[Seen]) -> Path:
    ids = {name: place for place, name in enumerate(sorted({n for _, own in images for n in own}))}
    coco: dict[str, Any] = {
        "images": [{"id": n, "file_name": f"there/{name}"} for n, (name, _) in enumerate(images)],
        "annotations": [
            {"image_id": n, "category_id": ids[one]}
            for n, (_, own) in enumerate(images)
            for one in own
        ],
        "categories": [{"id": place, "name": name} for name, place in ids.items()],
    }
    path.write_text(json.dumps(coco), encoding="utf-8")
    return path


def options(folder: Path) -> tuple[object, ...]:
    return ("--dir", folder / "models", "--cache", folder / "cache")


def report(folder: Path) -> tuple[object, ...]:
    return ("--report", folder / "report.html")


def test_coco_says_which_model_and_fusion_is_better_and_what_re_ranking_does(
    folder: Path,
) -> None:
    asked = ("--coco", folder / "instances.json", *MODELS, *report(folder))

    said = succeed("evaluate", folder / "val", *asked, *options(folder)).stdout

    assert "annotations: 30 pictures with, 0 without" in said
    assert "30 queries of 3 labels, 30 pictures" in said
    assert "nDCG@10" in said
    assert "Best of the models: " in said
    assert "Best of the fusions: colours + shapes, " in said
    assert "by neighbours: nDCG@10 " in said
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "instances.json · 30 pictures, 3 labels" in page


def test_the_pictures_may_lie_beside_the_file_and_some_are_looked_for(folder: Path) -> None:
    asked = ("--coco", folder / "instances.json", *MODELS, *report(folder), "--queries", 7)

    done = succeed("evaluate", *asked, *options(folder), "--json")

    result = json.loads(done.stdout)
    assert (result["n_queries"], result["n_pictures"], result["decided_by"]) == (7, 30, "nDCG@10")
    assert "30 pictures with" in done.stderr
    for finding in result["recommendation"]["findings"]:
        assert finding["difference"].keys() == {"estimate", "n_needed", "n_queries"}


def test_pictures_are_looked_for_by_the_names_of_their_categories(
    folder: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    shutil.copytree(folder / "models", models)
    words = text_graph(), tokenizer_file()
    Registry(models).add(pair_card().model_copy(update={"name": "pair"}), picture_graph(), words)
    asked = ("--coco", folder / "instances.json", "--models", "shapes,pair", *report(tmp_path))
    kept = ("--dir", models, "--cache", tmp_path / "cache")

    said = succeed("evaluate", *asked, *kept, "--text").stdout
    some = succeed("evaluate", *asked, *kept, "--text", "--queries", 2, "--json").stdout

    assert "names of 3 labels, 30 pictures" in said
    assert "nDCG" not in said
    assert "pair reaches mAP " in said
    result = json.loads(some)
    assert (result["n_queries"], result["n_pictures"], result["decided_by"]) == (2, 30, "mAP")
    # Each name is asked of all pictures with it, also of those that show two colours more.
    [pair] = result["contenders"]
    assert pair["mean_average_precision"]["value"] > 0.9


def test_pictures_without_annotations_and_images_without_pictures_are_counted(
    folder: Path, tmp_path: Path
) -> None:
    images: list[Seen] = [(f"{n:012}.png", SETS[n % len(SETS)]) for n in range(20)]
    images += [(f"{n:012}.png", ()) for n in range(20, 24)]
    coco = write_coco(tmp_path / "some.json", [*images, ("gone.png", SETS[0])])

    said = succeed(
        *("evaluate", folder / "val", "--coco", coco, *MODELS),
        *(*report(tmp_path), *options(folder)),
    ).stdout

    assert "annotations: 24 pictures with, 6 without" in said
    assert "1 image of the file without a picture here" in said
    assert "10 pictures left out: nothing is annotated on them" in said
    assert "20 pictures" in said


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ([("elsewhere.png", ("red",))], "none of the 30 pictures in"),
        ([(f"{n:012}.png", (f"thing {n}",)) for n in range(9)], "no label has 3 pictures"),
        ([(f"{n:012}.png", ("red",)) for n in range(9)], "has 1 labels; at least 2 are needed"),
        ([(f"{n:012}.png", ()) for n in range(9)], "has 0 labels; at least 2 are needed"),
    ],
)
def test_annotations_that_tell_nothing_are_one_sentence(
    folder: Path, tmp_path: Path, images: list[Seen], told: str
) -> None:
    coco = write_coco(tmp_path / "instances.json", images)

    asked = (*report(tmp_path), *options(folder))
    said = fail("evaluate", folder / "val", "--coco", coco, *asked)

    assert told in said
    assert said.count("twinlens: ") == 1


def test_what_is_no_coco_file_or_no_folder_of_pictures_is_told(
    folder: Path, tmp_path: Path
) -> None:
    junk = tmp_path / "labels.csv"
    junk.write_text("file,label\n", encoding="utf-8")
    coco, empty = folder / "instances.json", tmp_path / "empty"
    empty.mkdir()

    assert "is not a COCO file of instances" in fail("evaluate", folder / "val", "--coco", junk)
    assert "there is no picture in" in fail("evaluate", empty, "--coco", coco)
    assert "is no folder: --coco takes" in fail("evaluate", junk, "--coco", coco, status=2)
    assert "is a folder: name a CSV" in fail("evaluate", folder / "val", status=2)
    assert "name a CSV of file,label, or --coco FILE" in fail("evaluate", status=2)


def test_so_many_are_looked_for_as_the_option_says() -> None:
    [option] = [one for one in evaluate_models.params if one.name == "max_queries"]

    assert option.default == N_QUERIES


# Two libraries


def library_service(*libraries: Library) -> Service:
    service = Service()
    for library in libraries:
        service.answers[f"/v1/libraries/{library.name}"] = partial(_answer, library)
    return service


def _answer(library: Library, _: httpx.Request) -> httpx.Response:
    return as_json(library)


def test_two_libraries_are_compared_as_they_are(folder: Path) -> None:
    first = new_library("first", ["shapes@1"])
    second = new_library("second", ["shapes@1", "colours@1"], weights={"shapes": 0.25})
    asked = ("--coco", folder / "instances.json", "--library", "first", "--library", "second")
    with listening(library_service(first, second)) as url:
        words = ("evaluate", folder / "val", *asked, "--url", url, *options(folder))
        said = succeed(*words).stdout
        result = json.loads(succeed(*words, "--json").stdout)

    assert "30 queries of 3 labels, 30 pictures; the same for both" in said
    assert "colours + shapes, calibrated, 1 : 0.25" in said
    one, other = result["libraries"]
    assert (one["name"], one["recipe"]["models"]) == ("first", ["shapes"])
    assert other["recipe"]["weights"] == [1.0, 0.25]
    gain = other["ndcg_at_10"]["value"] - one["ndcg_at_10"]["value"]
    assert result["difference"]["estimate"]["value"] == pytest.approx(gain)
    assert result["difference"]["n_queries"] == result["n_queries"] == 30
    assert result["sentence"] in said


def test_two_versions_of_a_model_are_compared(folder: Path) -> None:
    other = ("models", "add", folder / "colours.onnx", "--name", "shapes", "--version", "b")
    succeed(*other, "--dir", folder / "models")
    old, new = new_library("old", ["shapes@1"]), new_library("new", ["shapes@b", "colours@1"])
    asked = ("--coco", folder / "instances.json", "--library", "old", "--library", "new")
    with listening(library_service(old, new)) as url:
        words = ("evaluate", folder / "val", *asked, "--url", url, *options(folder), "--json")
        result = json.loads(succeed(*words).stdout)

    recipes = [one["recipe"]["models"] for one in result["libraries"]]
    assert recipes == [["shapes@1"], ["colours", "shapes@b"]]


def test_models_that_do_not_count_are_not_compared(folder: Path) -> None:
    one = new_library("one", ["shapes@1"])
    same = new_library("same", ["shapes@1", "colours@1"], weights={"colours": 0.0})
    asked = ("--coco", folder / "instances.json", "--library", "one", "--library", "same")
    with listening(library_service(one, same)) as url:
        said = succeed("evaluate", folder / "val", *asked, "--url", url, *options(folder)).stdout

    assert "same less one: nDCG@10 +0.000" in said
    assert "the 30 queries show no difference at all" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("a", "b", "c"), "two different libraries are compared"),
        (("a", "a"), "two different libraries are compared"),
        (("a", "b"), "leave out --models and --apply"),
    ],
)
def test_what_cannot_be_compared_is_told_at_once(
    folder: Path, words: tuple[str, ...], told: str
) -> None:
    libraries = [word for name in words for word in ("--library", name)]

    assert told in fail(
        *("evaluate", folder / "val", "--coco", folder / "instances.json", *libraries, "--apply"),
        status=2,
    )
