"""`twinlens models pull FOLDER`: every layout, and what is refused."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from onnx import TensorProto
from PIL import Image
from support import repositories
from support.photos import make_photos
from support.repositories import CLIP_PIXELS, save, save_int8, text_graph, vision_graph, write
from support.tiny_networks import unit

from twinlens.cli.main import main
from twinlens.models.card import Fit, load_card
from twinlens.models.pictures import open_picture
from twinlens.models.registry import Registry

CLIP_MEAN, CLIP_STD = CLIP_PIXELS["image_mean"], CLIP_PIXELS["image_std"]
HALF = [0.5, 0.5, 0.5]
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def pull(*words: object, models: Path) -> Result:
    return CliRunner().invoke(main, ["models", "pull", *map(str, words), "--dir", str(models)])


def succeed(*words: object, models: Path) -> str:
    done = pull(*words, models=models)
    assert done.exit_code == 0, done.output
    return done.stdout


def fail(*words: object, models: Path) -> str:
    done = pull(*words, models=models)
    assert done.exit_code == 1, done.output
    assert "Traceback" not in done.output
    # One sentence, or some, in one line.
    assert done.stderr.count("\n") == 1
    return done.stderr


def picture() -> bytes:
    pixels = np.random.default_rng(5).integers(0, 256, (45, 61, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def embedded(models: Path, ref: str) -> NDArray[Any]:
    embedder = Registry(models).open(ref)
    spec = embedder.card.input
    pixels = open_picture(picture(), wanted_px=spec.wanted_px).pixels_for(spec)
    row: NDArray[Any] = embedder.embed_batch(pixels[np.newaxis])[0]
    return row


def run_graph(path: Path, output: str, fed: dict[str, NDArray[Any]]) -> NDArray[Any]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    values: NDArray[Any] = session.run([output], fed)[0]
    return values


def prepared(mean: list[float], std: list[float], filtered: int, resized: int) -> NDArray[Any]:
    """A picture as transformers prepares it, with Pillow alone; 0 squashes it."""
    with Image.open(io.BytesIO(picture())) as image:
        size = (int(resized * 61 / 45), resized) if resized else (32, 32)
        larger = image.resize(size, filtered)
    left, top = (larger.width - 32) // 2, (larger.height - 32) // 2
    cut = np.asarray(larger.crop((left, top, left + 32, top + 32)), np.float32)
    values = (cut / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
    ordered: NDArray[Any] = values.transpose(2, 0, 1)[np.newaxis].astype(np.float32)
    return ordered


CLIPS, SIGLIPS = (CLIP_MEAN, CLIP_STD, 3, 32), (HALF, HALF, 2, 0)
DINOS = (CLIP_MEAN, CLIP_STD, 3, 36)
LAYOUTS = {
    "clip": ("onnx/vision_model.onnx", "image_embeds", CLIPS, Fit.CROP),
    "whole_clip": ("onnx/model.onnx", "image_embeds", CLIPS, Fit.CROP),
    "siglip": ("onnx/vision_model.onnx", "pooler_output", SIGLIPS, Fit.SQUASH),
    "dinov2": ("onnx/model.onnx", "last_hidden_state", DINOS, Fit.CROP),
    "sentence_transformers": ("onnx/model.onnx", "last_hidden_state", DINOS, Fit.CROP),
    "fastembed": ("model.onnx", "495", (IMAGENET_MEAN, IMAGENET_STD, 3, 36), Fit.CROP),
    "immich": ("visual/model.onnx", "embedding", (HALF, HALF, 3, 0), Fit.SQUASH),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pictures_of_each_layout_are_embedded_as_their_files_say(
    layout: str, models: Path, tmp_path: Path
) -> None:
    folder = getattr(repositories, layout)(tmp_path / layout)
    said = succeed(folder, models=models)
    ref = f"{layout.replace('_', '-')}@1"
    assert f"added {ref}: 4-d" in said
    assert "pictures a second on one core" in said
    assert f"make a library of it: twinlens libraries set NAME --model {ref}" in said
    graph, output, pixels, fit = LAYOUTS[layout]
    fed = {ort.InferenceSession(folder / graph).get_inputs()[0].name: prepared(*pixels)}
    if layout == "whole_clip":
        fed |= {name: np.ones((1, 2), np.int64) for name in ("input_ids", "attention_mask")}
    values = run_graph(folder / graph, output, fed)
    if output == "last_hidden_state":
        values = values[:, 0] if layout == "dinov2" else values.mean(1)
    [expected] = unit(values)
    assert embedded(models, ref) @ expected == pytest.approx(1, abs=1e-5)
    card = load_card(models / f"{ref}.toml")
    assert card.input.fit == fit
    assert "ok " in CliRunner().invoke(main, ["models", "verify", ref, "--dir", str(models)]).output


def test_pixels_are_read_where_transformers_5_has_them(models: Path, tmp_path: Path) -> None:
    folder = repositories.clip(tmp_path / "pair")
    succeed(folder, models=models)
    (folder / "preprocessor_config.json").unlink()
    newer = {"image_processor": CLIP_PIXELS, "processor_class": "CLIPProcessor"}
    write(folder / "processor_config.json", newer)
    succeed(folder, "--name", "newer", models=models)
    assert embedded(models, "pair") @ embedded(models, "newer") == pytest.approx(1, abs=1e-6)


def test_a_graph_that_takes_bytes_gets_them(models: Path, tmp_path: Path) -> None:
    succeed(repositories.immich(tmp_path / "floats"), models=models)
    succeed(repositories.immich(tmp_path / "bytes", takes_bytes=True), models=models)
    same = embedded(models, "floats") @ embedded(models, "bytes")
    assert same == pytest.approx(1, abs=1e-6)


# Numbers of the words in the tests' tokenizers: red 4, a 7, photo 8; <bos> 2, <eos> 1, <pad> 0.
TEXTS = {
    "clip": ("onnx/text_model.onnx", "text_embeds", [2, 7, 4, 8, 1]),
    "whole_clip": ("onnx/model.onnx", "text_embeds", [2, 7, 4, 8, 1]),
    "siglip": ("onnx/text_model.onnx", "pooler_output", [7, 4, 8, 1] + [0] * 8),
    "immich": ("textual/model.onnx", "embedding", [2, 7, 4, 8, 1] + [0] * 7),
}


@pytest.mark.parametrize("layout", TEXTS)
def test_words_of_each_layout_are_embedded_as_their_files_say(
    layout: str, models: Path, tmp_path: Path
) -> None:
    folder = getattr(repositories, layout)(tmp_path / layout)
    said = succeed(folder, models=models)
    assert "found with words: twinlens search --library NAME --text" in said
    graph, output, ids = TEXTS[layout]
    fed: dict[str, NDArray[Any]] = {}
    for value in ort.InferenceSession(folder / graph).get_inputs():
        dtype = np.int32 if value.type == "tensor(int32)" else np.int64
        numbers = np.ones_like(ids) if value.name == "attention_mask" else ids
        fed[value.name] = np.array([numbers], dtype)
        if value.name == "pixel_values":
            fed[value.name] = prepared(*CLIPS)
    [expected] = unit(run_graph(folder / graph, output, fed))
    ref = layout.replace("_", "-")
    assert Registry(models).open_text(ref).encode("A red photo") @ expected == pytest.approx(1)


def test_texts_are_filled_up_for_a_graph_that_takes_so_many_tokens(
    models: Path, tmp_path: Path
) -> None:
    folder = repositories.clip(tmp_path / "pair")
    # Without a mask what fills a text up counts, so that it can be told.
    graph = text_graph(("text_embeds",), mask="", n_tokens=12)
    save(folder / "onnx/text_model.onnx", graph)
    succeed(folder, models=models)
    fed = {"input_ids": np.array([[2, 4, 1] + [0] * 9], np.int64)}
    [expected] = unit(run_graph(folder / "onnx/text_model.onnx", "text_embeds", fed))
    words = Registry(models).open_text("pair")
    assert words.encode("red") @ expected == pytest.approx(1, abs=1e-6)
    assert words.encode("red " * 50).shape == (4,)


def test_tokens_of_words_are_pooled_by_those_that_are_there(models: Path, tmp_path: Path) -> None:
    folder = repositories.clip(tmp_path / "pair")
    save(folder / "onnx/text_model.onnx", text_graph(("last_hidden_state",)))
    assert "gives tokens (last_hidden_state)" in fail(folder, models=models)
    write(folder / "1_Pooling/config.json", {"pooling_mode_mean_tokens": True})
    succeed(folder, models=models)
    [expected] = unit(repositories.TABLE[[[2, 7, 4, 1]]].mean(1))
    words = Registry(models).open_text("pair").encode("a red")
    assert words @ expected == pytest.approx(1, abs=1e-6)


def test_the_card_says_where_it_is_all_from(models: Path, tmp_path: Path) -> None:
    folder = repositories.clip(tmp_path / "Some.Pair_v2")
    (folder / "README.md").write_text("---\ntags:\n- onnx\nlicense: mit\n---\nlicense: none\n")
    (folder / "vocab.json").write_text("{}")
    done = pull(folder, "--version", "7", "--json", models=models)
    assert done.exit_code == 0, done.output
    card = json.loads(done.stdout)
    assert (card["model"], card["licence"]) == ("some-pair-v2@7", "mit")
    pulled = card["pulled"]
    assert pulled["repository"] == "Some.Pair_v2"
    assert set(pulled["files"]) == {
        "README.md",
        "config.json",
        "onnx/text_model.onnx",
        "onnx/vision_model.onnx",
        "preprocessor_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    content = (folder / "onnx/text_model.onnx").read_bytes()
    assert pulled["files"]["onnx/text_model.onnx"] == hashlib.sha256(content).hexdigest()


def test_weights_in_files_beside_are_taken_in(models: Path, tmp_path: Path) -> None:
    folder = repositories.clip(tmp_path / "pair")
    succeed(folder, models=models)
    for name, graph, output in (
        ("vision_model", vision_graph, "image_embeds"),
        ("text_model", text_graph, "text_embeds"),
    ):
        save(folder / f"onnx/{name}.onnx", graph((output,)), beside=f"{name}.onnx_data")
    succeed(folder, "--name", "beside", models=models)
    assert embedded(models, "pair") @ embedded(models, "beside") == pytest.approx(1, abs=1e-6)
    assert "onnx/vision_model.onnx_data" in load_card(models / "beside@1.toml").pulled.files  # type: ignore[union-attr]
    (folder / "onnx/vision_model.onnx_data").unlink()
    assert "Put the files with its weights beside it" in fail(
        folder, "--name", "less", models=models
    )


def test_weights_are_chosen(models: Path, tmp_path: Path) -> None:
    folder = repositories.clip(tmp_path / "pair")
    half = vision_graph(("image_embeds",), dtype=TensorProto.FLOAT16)
    save(folder / "onnx/vision_model_fp16.onnx", half)
    succeed(folder, models=models)
    succeed(folder, "--dtype", "fp16", "--name", "half", models=models)
    files = load_card(models / "half@1.toml").pulled.files  # type: ignore[union-attr]
    assert {"onnx/vision_model_fp16.onnx", "onnx/text_model.onnx"} <= files.keys()
    assert embedded(models, "pair") @ embedded(models, "half") == pytest.approx(1, abs=1e-3)
    assert "Pass --dtype fp32 or fp16" in fail(
        folder, "--dtype", "q4", "--name", "q", models=models
    )


def test_on_a_gpu_weights_of_float16_are_taken(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = repositories.dinov2(tmp_path / "dino")
    half = vision_graph(("last_hidden_state",), dtype=TensorProto.FLOAT16)
    save(folder / "onnx/model_fp16.onnx", half)
    providers = '["CUDAExecutionProvider", "CPUExecutionProvider"]'
    monkeypatch.setenv("TWINLENS_EXECUTION_PROVIDERS", providers)
    succeed(folder, models=models)
    assert "onnx/model_fp16.onnx" in load_card(models / "dino@1.toml").pulled.files  # type: ignore[union-attr]


def test_int8_whose_scales_are_a_batchs_is_refused(models: Path, tmp_path: Path) -> None:
    folder = repositories.clip(tmp_path / "pair")
    save_int8(folder / "onnx/vision_model_quantized.onnx", folder / "onnx/vision_model.onnx")
    said = fail(folder, "--dtype", "int8", models=models)
    assert "depends on the other pictures of its batch" in said


def test_a_pulled_model_is_calibrated_on_photos(models: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    make_photos(photos, 40, seed=7)
    folder = repositories.dinov2(tmp_path / "dino")
    said = succeed(folder, "--photos", photos, "--cache", tmp_path, models=models)
    assert "the card of dino@1 now has:\n[calibration]" in said
    card = load_card(models / "dino@1.toml")
    assert card.calibration is not None
    assert (card.calibration.n_pictures, card.calibrated_on) == (40, "photos")


def _classes_alone(folder: Path) -> None:
    save(folder / "onnx/vision_model.onnx", vision_graph(("logits",)))


def _no_rank(folder: Path) -> None:
    save(folder / "onnx/vision_model.onnx", text_graph(("image_embeds",)))


def _strange_words(folder: Path) -> None:
    save(folder / "onnx/text_model.onnx", text_graph(("text_embeds",), ids="prompt"))


def _no_graph(folder: Path) -> None:
    (folder / "onnx/vision_model.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1")


def _no_json(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_bytes(b"<html>")


def _a_list(folder: Path) -> None:
    write(folder / "preprocessor_config.json", [])


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(b"{}")


def _dense(folder: Path) -> None:
    write(folder / "modules.json", [{"type": "sentence_transformers.models.Dense"}])


def _another_size(folder: Path) -> None:
    graph = vision_graph(("image_embeds",), shape=["batch", 3, 64, 64])
    save(folder / "onnx/vision_model.onnx", graph)


def _tokens_of_unknown(folder: Path) -> None:
    save(folder / "onnx/vision_model.onnx", vision_graph(("last_hidden_state",)))


def _too_large(folder: Path) -> None:
    save(
        folder / "onnx/vision_model.onnx",
        vision_graph(("image_embeds",)),
        beside="vision_model.onnx_data",
    )
    # No byte of it is on the disk.
    with (folder / "onnx/vision_model.onnx_data").open("r+b") as file:
        file.truncate(3_000_000_000)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_classes_alone, "gives logits: classes alone, and no embedding. Pass the repository"),
        (_no_rank, "takes input_ids, attention_mask, and no picture of rank 4"),
        (_strange_words, "the text encoder takes prompt int64 [batch, sequence]; attention_mask"),
        (_no_graph, "vision_model.onnx cannot be read as ONNX"),
        (_no_json, "preprocessor_config.json is not JSON"),
        (_a_list, "preprocessor_config.json is no JSON object"),
        (_no_tokenizer, "tokenizer.json is no tokenizer of the tokenizers library"),
        (_dense, "a layer after the text encoder (sentence_transformers.models.Dense)"),
        (_another_size, "pictures of 64 x 64, and its preprocessing gives 32 x 32"),
        (_tokens_of_unknown, "a model of type 'clip' makes one vector of them. Pass --pool cls"),
        (_too_large, "has 3.0 GB with its weights, and a model here is one file of 2 GiB"),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_what_cannot_be_used_is_refused_and_nothing_is_added(
    spoil: Callable[[Path], None], words: str, models: Path, tmp_path: Path
) -> None:
    folder = repositories.clip(tmp_path / "pair")
    spoil(folder)
    before = sorted(models.iterdir())
    assert words in fail(folder, models=models)
    assert sorted(models.iterdir()) == before


def test_options_stand_in_for_what_the_files_do_not_say(models: Path, tmp_path: Path) -> None:
    folder = repositories.clip(tmp_path / "pair")
    _tokens_of_unknown(folder)
    _no_tokenizer(folder)
    succeed(folder, "--pool", "mean", "--no-words", models=models)
    assert load_card(models / "pair@1.toml").text is None
    [expected] = unit(
        run_graph(
            folder / "onnx/vision_model.onnx",
            "last_hidden_state",
            {"pixel_values": prepared(*CLIPS)},
        ).mean(1)
    )
    assert embedded(models, "pair") @ expected == pytest.approx(1, abs=1e-6)
    maps = ("--output", "maps", "--pool", "max", "--no-words", "--name")
    assert "added most@1: 4-d" in succeed(folder, *maps, "most", models=models)


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("clip", "'clip' is no folder, and no name of a model: give clip-vit-b32, siglip2-base"),
        ("hf:clip", "'hf:clip' is no repository: give hf:OWNER/REPO"),
        ("hf:a/b/c", "is no repository"),
        ("hf:../..", "is no repository"),
        ("http://hub.example/a/b", "is no address of a repository: give https://HOST/OWNER"),
        ("https://hub.example/a/b/resolve/main/model.onnx", "a file elsewhere, fetch"),
        ("https://user:word@hub.example/a/b", "is no address of a repository"),
    ],
)
def test_what_names_no_model_is_refused(named: str, words: str, models: Path) -> None:
    assert words in fail(named, models=models)


def test_a_folder_whose_name_is_none_for_a_model_needs_one(models: Path, tmp_path: Path) -> None:
    folder = repositories.dinov2(tmp_path / "2024")
    assert "pass --name" in fail(folder, models=models)
    assert "added dino@1" in succeed(folder, "--name", "dino", models=models)
