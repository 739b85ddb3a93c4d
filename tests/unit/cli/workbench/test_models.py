"""`twinlens models …`, `evaluate` and `compare-models`, as a user types them."""

from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path

import httpx
import numpy as np
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper
from PIL import Image
from support.photos import make_photos
from support.played import Service, as_json, as_json_page, listening
from support.servers import free_port
from support.tiny_pair import (
    pair_card,
    picture_graph,
    plain_picture,
    text_graph,
    tokenizer_file,
)

from twinlens.cli.main import main
from twinlens.models.card import Original, load_card
from twinlens.models.registry import Registry
from twinlens.shared.libraries import Index, PreviousEdition, new_library
from twinlens.shared.messages import now


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def succeed(*words: object) -> str:
    done = run(*words)
    assert done.exit_code == 0, done.output
    return done.stdout


def fail(*words: object) -> str:
    done = run(*words)
    assert done.exit_code == 1, done.output
    assert "Traceback" not in done.output
    return done.stderr


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "photos"
    make_photos(folder, 40, seed=7)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


def mean_colour(path: Path) -> Path:
    """A network as from elsewhere: float NCHW, its own names, batch 1."""
    nodes = [helper.make_node("ReduceMean", ["input.1"], ["42"], axes=[2, 3], keepdims=0)]
    image = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, 32, 32])
    out = helper.make_tensor_value_info("42", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph(nodes, "colour", [image], [out])
    opsets = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_models_are_listed_shown_and_verified(models: Path) -> None:
    listed = succeed("models", "list", "--dir", models)
    assert "efficientnet-lite0@1" in listed
    shown = succeed("models", "show", "phash", "--dir", models)
    assert tomllib.loads(shown)["input"] == {
        "resample": "lanczos",
        "fit": "squash",
        "crop_fraction": 1.0,
        "offset": "round",
        "width": 32,
        "height": 32,
    }
    assert "\n# none: " in shown
    assert (
        shown.splitlines()[-1]
        == "# none: input.resized_px, text, pulled, linear_of, comparison, calibrated_on"
    )
    assert "ok       phash@1" in succeed("models", "verify", "phash", "--dir", models)


@pytest.fixture
def service() -> Service:
    """A service with a library of the hash alone, one that had it before, and another."""
    previous = PreviousEdition(models=["phash@1"], until=now())
    libraries = [
        new_library("art", ["phash@1"]),
        new_library("before", ["efficientnet-lite0@1"]).model_copy(update={"previous": previous}),
        new_library("other", ["efficientnet-lite0@1"]),
    ]
    service = Service()

    def page(request: httpx.Request) -> httpx.Response:
        place = int(request.url.params.get("cursor", 0))
        following = str(place + 1) if place + 1 < len(libraries) else None
        return as_json_page([libraries[place]], following)

    service.answers["/v1/libraries"] = page
    return service


def remove_from(url: str, models: Path, *words: str) -> Result:
    return run("models", "remove", *words, "--url", url, "--dir", models)


def test_a_model_that_no_library_needs_is_removed(service: Service, models: Path) -> None:
    with listening(service) as url:
        assert remove_from(url, models, "efficientnet-lite2@1", "--yes").exit_code == 0
    assert not list(models.glob("efficientnet-lite2@1.*"))


def test_a_model_that_libraries_need_is_removed_by_force_alone(
    service: Service, models: Path
) -> None:
    with listening(service) as url:
        refused = remove_from(url, models, "phash", "--yes")
        assert refused.exit_code == 2
        assert "without phash@1: art, before (" in refused.stderr
        assert "--force removes it" in refused.stderr
        assert list(models.glob("phash*"))
        done = remove_from(url, models, "phash", "--yes", "--force")
    assert (done.exit_code, done.stdout) == (0, "removed phash@1\n")
    assert "without phash@1: art, before (" in done.stderr
    assert not list(models.glob("phash*"))


def test_where_no_service_tells_who_needs_a_model_it_is_removed_by_force_alone(
    models: Path,
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    refused = remove_from(nowhere, models, "phash", "--yes")
    assert refused.exit_code == 2
    assert "whether libraries need phash@1 is not known: nothing answers" in refused.stderr
    done = remove_from(nowhere, models, "phash", "--yes", "--force")
    assert (done.exit_code, done.stdout) == (0, "removed phash@1\n")
    assert not list(models.glob("phash*"))


def test_what_is_changed_is_refused_and_the_others_are_verified(models: Path) -> None:
    with (models / "phash@1.onnx").open("ab") as stream:
        stream.write(b"\0")
    done = run("models", "verify", "--dir", models)
    assert done.exit_code == 1
    assert "refused  model phash@1: SHA-256" in done.output
    assert "ok       efficientnet-lite0@1" in done.output
    assert "1 refused" in done.stderr


def test_pictures_a_second_are_measured(models: Path) -> None:
    assert "phash@1" in succeed("models", "bench", "phash", "--dir", models)


def test_an_unknown_model_names_the_known(models: Path) -> None:
    assert "there are: efficientnet-lite0@1" in fail("models", "show", "none", "--dir", models)


def test_a_quantised_version_lies_beside_the_old(models: Path, photos: Path) -> None:
    asked = ("efficientnet-lite0@1", "--photos", photos, "--dir", models, "--version", "mine")
    said = succeed("models", "quantize", *asked)
    assert "added efficientnet-lite0@mine" in said
    for words in ("speed", "mean cosine", "top-10 agreement", "bytes per vector  5120"):
        assert words in said
    card = load_card(models / "efficientnet-lite0@mine.toml")
    assert card.comparison is not None
    assert card.comparison.original == "efficientnet-lite0@1"
    assert card.comparison.n_pictures == 40
    assert card.comparison.mean_cosine is not None
    assert 0.95 < card.comparison.mean_cosine < 1
    # Its distances are those of the old, within a rounding.
    assert card.calibration == load_card(models / "efficientnet-lite0@1.toml").calibration
    Registry(models).open("efficientnet-lite0@mine")
    assert "there already" in fail("models", "quantize", *asked)


def test_a_projected_version_has_shorter_vectors(
    models: Path, photos: Path, tmp_path: Path
) -> None:
    asked = ("efficientnet-lite0@1", "--photos", photos, "--dir", models, "--cache", tmp_path)
    said = succeed("models", "project", *asked, "--dim", "16")
    assert "added efficientnet-lite0@1-pca16: 16-d" in said
    assert "bytes per vector  64" in said
    made, original = (
        load_card(models / f"efficientnet-lite0@{version}.toml") for version in ("1-pca16", "1")
    )
    assert made.linear_of == Original(ref=original.ref, sha256=original.sha256)
    # Its distances are others.
    own, old = made.calibration, original.calibration
    assert own is not None
    assert own.n_pairs == 780
    assert own != old
    embedder = Registry(models).open("efficientnet-lite0@1-pca16")
    blank = np.zeros((2, 224, 224, 3), np.uint8)
    assert embedder.embed_batch(blank).shape == (2, 16)
    assert fail("models", "project", *asked, "--dim", "1000")


def test_an_int8_version_keeps_its_words_and_a_shorter_one_says_that_it_has_none(
    models: Path, photos: Path, tmp_path: Path
) -> None:
    registry = Registry(models)
    card, model = registry.read("efficientnet-lite0@1")
    pair = card.model_copy(update={"name": "pair", "text": pair_card().text})
    registry.add(pair, model, (text_graph(card.dimension), tokenizer_file()))
    asked = ("pair@1", "--photos", photos, "--dir", models, "--cache", tmp_path)
    assert "text encoder" not in succeed("models", "quantize", *asked)
    float_row, row = (registry.open_text(f"pair@{v}").encode("green") for v in ("1", "1-int8"))
    assert np.array_equal(row, float_row)
    assert "ok       pair@1-int8" in succeed("models", "verify", "pair@1-int8", "--dir", models)
    said = succeed("models", "project", *asked, "--dim", "8")
    assert "added pair@1-pca8: 8-d" in said
    assert "words are not embedded under pair@1-pca8" in said
    assert load_card(models / "pair@1-pca8.toml").text is None


def test_a_network_from_elsewhere_is_added_with_its_words(models: Path, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_bytes(text_graph())
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_file())
    network = mean_colour(tmp_path / "colour.onnx")
    words = ("--text", tmp_path / "text.onnx", "--tokenizer", tmp_path / "tokenizer.json")
    # Black is not nothing: its vector must have a length.
    pixels = ("--scale", 1 / 255, "--mean", "-0.01,-0.01,-0.01")
    asked = ("models", "add", network, "--name", "colour", *pixels, "--dir", models)
    said = succeed(*asked, *words)
    assert "added colour@1: 3-d" in said
    assert "no calibration: scores are rough" in said
    assert "`twinlens models calibrate colour@1 PHOTOS`" in said
    assert load_card(models / "colour@1.toml").calibration is None
    registry = Registry(models)
    green = np.full((1, 32, 32, 3), (0, 200, 0), np.uint8)
    [row] = registry.open("colour").embed_batch(green)
    assert row == pytest.approx([0, 1, 0], abs=0.02)
    assert registry.open_text("colour").encode("green") == pytest.approx([0, 1, 0], abs=1e-6)
    assert "both --text and --tokenizer" in fail(*asked, *words[:2], "--version", 2)


def test_a_network_is_added_with_templates_of_its_words(models: Path, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_bytes(text_graph())
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_file())
    network = mean_colour(tmp_path / "colour.onnx")
    words = ("--text", tmp_path / "text.onnx", "--tokenizer", tmp_path / "tokenizer.json")
    pixels = ("--scale", 1 / 255, "--mean", "-0.01,-0.01,-0.01")
    asked = ("models", "add", network, "--name", "said", *pixels, "--dir", models)
    some = ("--template", "{}", "--template", "{} green")
    assert "--template is for a text encoder" in fail(*asked, *some)
    assert "101 templates: give 100 at most" in fail(*asked, *words, *("--template", "{}") * 101)
    succeed(*asked, *words, *some)
    card = load_card(models / "said@1.toml")
    assert card.text is not None
    assert card.text.templates == ("{}", "{} green")
    [red, green, _] = Registry(models).open_text("said").encode("red")
    assert green / red == pytest.approx(0.5**0.5 / (1 + 0.5**0.5), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {"resample": "bicubic", "fit": "squash"}),
        (("--crop", 0.8), {"resample": "bicubic", "fit": "crop", "crop_fraction": 0.8}),
        (
            ("--preset", "torchvision"),
            {"resample": "bilinear", "fit": "crop", "resized_px": 256},
        ),
        (
            ("--preset", "torchvision", "--resize-to", 232, "--resize", "bicubic"),
            {"resample": "bicubic", "fit": "crop", "resized_px": 232},
        ),
        (
            ("--preset", "torchvision", "--crop", 1),
            {"resample": "bilinear", "fit": "crop"},
        ),
        (
            ("--preset", "torchvision", "--fit", "squash"),
            {"resample": "bilinear", "fit": "squash"},
        ),
        (
            ("--preset", "caffe"),
            {"resample": "bilinear", "fit": "squash", "resized_px": 256},
        ),
        (
            ("--preset", "keras-torch", "--layout", "nchw"),
            {"resample": "bilinear", "fit": "squash"},
        ),
    ],
)
def test_a_preset_is_its_frameworks_until_options_override_it(
    options: tuple[object, ...], expected: dict[str, object], models: Path, tmp_path: Path
) -> None:
    network = mean_colour(tmp_path / "colour.onnx")
    pixels = ("--scale", 1 / 255, "--mean", "-0.01,-0.01,-0.01", "--std", "1,1,1")
    asked = ("models", "add", network, "--name", "colour", "--dir", models, *pixels)
    succeed(*asked, *options)
    plain = {"width": 32, "height": 32, "crop_fraction": 1.0, "resized_px": None, "offset": "round"}
    assert load_card(models / "colour@1.toml").input.model_dump(mode="json") == plain | expected


def test_a_new_model_is_calibrated_on_photos(models: Path, photos: Path, tmp_path: Path) -> None:
    network = mean_colour(tmp_path / "colour.onnx")
    pixels = ("--scale", 1 / 255, "--mean", "-0.01,-0.01,-0.01")
    asked = ("models", "add", network, *pixels, "--dir", models, "--cache", tmp_path)
    said = succeed(*asked, "--name", "colour", "--photos", photos)
    assert "the card of colour@1 now has:\n[calibration]" in said
    assert "no calibration" not in said
    calibration = load_card(models / "colour@1.toml").calibration
    assert calibration is not None
    assert (calibration.n_pictures, calibration.n_pairs) == (40, 780)
    # Labels that are too few end the command; the model is there all the same.
    labels = tmp_path / "labels.csv"
    rows = [f"{path},{place % 5}" for place, path in enumerate(sorted(photos.glob("7-*.jpg")))]
    labels.write_text("\n".join(["file,label", *rows]), encoding="utf-8")
    few = fail(*asked, "--name", "tint", "--photos", labels)
    assert "640 pairs of unrelated pictures are too few" in few
    assert load_card(models / "tint@1.toml").calibration is None


def test_what_cannot_be_added_says_what_to_pass(models: Path, tmp_path: Path) -> None:
    network = mean_colour(tmp_path / "colour.onnx")
    before = sorted(models.iterdir())
    wrong = ("models", "add", network, "--name", "colour", "--dir", models, "--layout", "nhwc")
    assert "--layout" in fail(*wrong)
    assert run(*wrong[:-2], "--preset", "none").exit_code == 2
    assert run(*wrong[:-2], "--mean", "1,2").exit_code == 2
    (tmp_path / "text.onnx").write_bytes(b"junk")
    assert "ONNX" in fail("models", "add", tmp_path / "text.onnx", "--name", "x", "--dir", models)
    assert sorted(models.iterdir()) == before


def test_a_keras_network_is_exported(models: Path) -> None:
    pytest.importorskip("tensorflow", reason="the extra `export` is not installed")
    asked = ("--weights", "random", "--seed", 3, "--dir", models)
    said = succeed("models", "export", "mobilenet", *asked)
    assert "added mobilenet@1: 1024-d" in said
    assert "cosine to Keras: " in said
    assert "no calibration: " in said
    assert "ok       mobilenet@1" in succeed("models", "verify", "mobilenet", "--dir", models)


def test_models_are_evaluated_on_labelled_photos(
    models: Path, photos: Path, tmp_path: Path
) -> None:
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerow(["file", "label"])
        # make_photos takes five photos in turn, so every fifth is of one.
        for place, path in enumerate(sorted(photos.glob("7-*.jpg"))):
            writer.writerow([path, f"photo {place % 5}"])
    report = tmp_path / "report.html"
    asked = ("--dir", models, "--cache", tmp_path / "cache", "--report", report)
    chosen = ("--models", "efficientnet-lite0@1,phash@1")
    service = Service()
    there = new_library("cats", ["phash@1"], metric="IP", index=Index(type="FLAT"))
    service.answers["/v1/libraries"] = lambda _: as_json_page([there])
    service.answers["/v1/libraries/cats"] = lambda _: as_json(there)
    with listening(service) as url:
        applied = ("--apply", "--library", "cats", "--url", url)
        said = succeed("evaluate", tmp_path / "labels.csv", *asked, *chosen, *applied)
    [put] = [json.loads(one.content) for one in service.requests if one.method == "PUT"]
    assert set(put["models"]) <= {"efficientnet-lite0@1", "phash@1"}
    assert set(put["weights"]) == {ref.partition("@")[0] for ref in put["models"]}
    # Nothing was measured that says they should be others.
    assert (put["metric"], put["index"]["type"]) == ("IP", "FLAT")
    assert "40 queries of 5 labels" in said
    assert said.count("re-ranked by neighbours as searches are") == 2
    assert "phash, not re-ranked" in said
    assert "pairs of different labels that score 0.99 or more: efficientnet-lite0 " in said
    assert "efficientnet-lite0" in said
    assert "<html" in report.read_text(encoding="utf-8")


def test_models_are_evaluated_by_the_names_of_labels(models: Path, tmp_path: Path) -> None:
    words = text_graph(), tokenizer_file()
    for name in ("colours", "paints"):
        card = pair_card().model_copy(update={"name": name})
        Registry(models).add(card, picture_graph(), words)
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerow(["file", "label"])
        for place, name in enumerate(("red", "green", "blue")):
            for level in (5, 60, 120):
                path = tmp_path / f"{name}{level}.png"
                colour = np.full(3, level)
                colour[place] += 100
                path.write_bytes(plain_picture((colour[0], colour[1], colour[2])))
                writer.writerow([path, name])
    report = tmp_path / "report.html"
    asked = ("--dir", models, "--cache", tmp_path / "cache", "--report", report, "--text")
    listed = ("evaluate", tmp_path / "labels.csv", *asked)
    said = succeed(*listed, "--models", "colours,phash@1,paints")
    assert "names of 3 labels, 9 pictures" in said
    assert "Use colours alone: mAP 1.000" in said
    assert "phash" not in said
    assert "re-ranked by" not in said
    assert "the names of 3 labels" in report.read_text(encoding="utf-8").lower()
    told = fail(*listed, "--models", "phash@1")
    assert "none of these models has a text encoder: phash@1; name one with --models" in told


def test_a_model_is_calibrated_on_photos_and_its_card_says_so(
    models: Path, photos: Path, tmp_path: Path
) -> None:
    asked = ("--dir", models, "--cache", tmp_path / "cache")
    before = load_card(models / "efficientnet-lite0@1.toml")
    said = succeed("models", "calibrate", "efficientnet-lite0@1", photos, *asked)
    assert "the card of efficientnet-lite0@1 now has:\n[calibration]\ncosines = [" in said
    after = load_card(models / "efficientnet-lite0@1.toml")
    assert before.calibration is not None
    assert after.calibration is not None
    assert (after.calibration.n_pictures, after.calibration.n_pairs) == (40, 780)
    assert after.calibration.exponent != before.calibration.exponent
    assert after.calibration.cosines != before.calibration.cosines
    assert after.calibrated_on == photos.name
    measured = {"calibration": after.calibration, "calibrated_on": photos.name}
    assert after == before.model_copy(update=measured)
    labels = tmp_path / "labels.csv"
    rows = [f"{path},{place % 5}" for place, path in enumerate(sorted(photos.glob("7-*.jpg")))]
    labels.write_text("\n".join(["file,label", *rows]), encoding="utf-8")
    few = fail("models", "calibrate", "efficientnet-lite0@1", labels, *asked)
    assert "640 pairs of unrelated pictures are too few" in few


def test_two_models_are_compared_in_a_picture(models: Path, photos: Path, tmp_path: Path) -> None:
    query = min(photos.glob("7-*.jpg"))
    save = tmp_path / "compared.png"
    asked = ("--dir", models, "--cache", tmp_path / "cache", "--save", save)
    chosen = ("--models", "efficientnet-lite0@1,phash@1")
    said = succeed("compare-models", query, photos, *asked, *chosen)
    assert "overlap of the first 8" in said
    assert "rank correlation" in said
    with Image.open(save) as image:
        assert image.format == "PNG"
