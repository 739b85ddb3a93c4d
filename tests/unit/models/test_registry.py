"""A directory of models: built once, checked at each opening, refused when anything differs."""

from __future__ import annotations

import hashlib
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from twinlens.models.card import load_card
from twinlens.models.cards import SHIPPED_CARDS, shipped_refs
from twinlens.models.pictures import open_picture
from twinlens.models.registry import DEFAULT_MODELS, Registry, ensure_models
from twinlens.models.session import OnnxEmbedder
from twinlens.models.verify import decode_embedding, encode_embedding
from twinlens.shared.errors import BadCard, BadEmbedding, ModelExists, ModelNotFound, ModelRefused


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_every_shipped_model_is_built_and_opens(built: Path) -> None:
    registry = Registry(built)

    assert [card.ref for card in registry.cards()] == shipped_refs()
    assert set(DEFAULT_MODELS) < set(shipped_refs())
    for card in registry.cards():
        embedder = registry.open(card.ref)
        spec = card.input
        pixels = np.zeros((3, spec.height, spec.width, 3), np.uint8)
        embeddings = embedder.embed_batch(pixels)
        assert len(embeddings) == 3
        assert np.isfinite(embeddings).all()
        assert embedder.embed_batch(pixels[:0]).shape == (0, embeddings.shape[1])


def test_a_build_leaves_models_and_nothing_else(built: Path) -> None:
    assert sorted(path.name for path in built.rglob("*")) == [
        ".lock",
        "chelsea.png",
        "coffee.png",
        "efficientnet-lite0@1-int8.onnx",
        "efficientnet-lite0@1-int8.toml",
        "efficientnet-lite0@1.onnx",
        "efficientnet-lite0@1.toml",
        "efficientnet-lite2@1-int8.onnx",
        "efficientnet-lite2@1-int8.toml",
        "efficientnet-lite2@1.onnx",
        "efficientnet-lite2@1.toml",
        "golden",
        "phash@1.onnx",
        "phash@1.toml",
    ]


def test_the_shipped_cards_are_of_what_is_built_here(built: Path) -> None:
    # Another onnx may write other bytes; then run `python -m twinlens.models.build.refresh`.
    for path in SHIPPED_CARDS.glob("*.toml"):
        assert load_card(path) == load_card(built / path.name)


def test_what_is_there_is_left_alone(models: Path) -> None:
    edit(models / "phash@1.toml", "weight = 0.0", "weight = 0.5")
    before = {path: path.stat().st_mtime_ns for path in models.iterdir()}

    cards = ensure_models(models)

    assert {path: path.stat().st_mtime_ns for path in models.iterdir()} == before
    assert {card.name: card.weight for card in cards}["phash"] == 0.5


@pytest.mark.parametrize("lost", ["phash@1.toml", "phash@1.onnx"])
def test_what_is_lost_is_built_again(models: Path, lost: str) -> None:
    (models / lost).unlink()

    ensure_models(models)

    Registry(models).open("phash")


def test_versions_lie_beside_each_other_and_are_told_apart(models: Path) -> None:
    registry = Registry(models)
    card, model = registry.read("phash")
    added = registry.add(card.model_copy(update={"version": "2", "title": "newer"}), model)

    assert (added.ref, added.file) == ("phash@2", "phash@2.onnx")
    assert added.golden == card.golden
    assert registry.card("phash@1") == card
    assert registry.open("phash@2").card == added
    with pytest.raises(ModelNotFound, match="several versions, name one of: phash@1, phash@2"):
        registry.card("phash")
    with pytest.raises(ModelExists, match="phash@2 is there already"):
        registry.add(added, model)

    registry.remove("phash@2")
    assert registry.card("phash") == card
    assert not list(models.glob("phash@2*"))


def test_a_model_is_packed_and_unpacked_elsewhere(models: Path, tmp_path: Path) -> None:
    (models / "phash@1.onnx").rename(models / "mine.onnx")
    edit(models / "phash@1.toml", 'file = "phash@1.onnx"', 'file = "mine.onnx"')
    packed = Registry(models).pack("phash@1")
    elsewhere = Registry(tmp_path / "elsewhere")
    elsewhere.directory.mkdir()
    elsewhere.unpack("phash@1", packed)
    assert elsewhere.open("phash@1").card.sha256 == Registry(models).card("phash@1").sha256
    assert elsewhere.pack("phash@1") == packed
    with pytest.raises(ModelExists):
        elsewhere.unpack("phash@1", packed)


def test_nothing_is_unpacked_but_what_a_card_names(models: Path, tmp_path: Path) -> None:
    packed = Registry(models).pack("phash@1")
    elsewhere = Registry(tmp_path / "elsewhere")
    elsewhere.directory.mkdir()
    for wrong in ({}, packed | {"phash@1.toml": b"name ="}):
        with pytest.raises(BadCard):
            elsewhere.unpack("phash@1", wrong)
    for name in ("phash@1.onnx", "golden/coffee.png"):
        with pytest.raises(BadCard, match="a file that it names is missing"):
            elsewhere.unpack("phash@1", {n: one for n, one in packed.items() if n != name})
    with pytest.raises(BadCard, match="is of phash@1"):
        elsewhere.unpack("other@1", {"other@1.toml": packed["phash@1.toml"]} | packed)
    elsewhere.unpack("phash@1", packed | {"../outside": b"x"})
    assert not (tmp_path / "outside").exists()
    (models / "golden" / "coffee.png").unlink()
    with pytest.raises(ModelRefused, match=r"golden/coffee\.png: No such file"):
        Registry(models).pack("phash@1")


def test_a_model_that_is_not_what_its_card_says_is_not_added(models: Path) -> None:
    registry = Registry(models)
    card, model = registry.read("efficientnet-lite0@1")
    before = sorted(path.name for path in models.iterdir())
    wrong = card.model_copy(update={"version": "2", "dimension": 5})
    with pytest.raises(ModelRefused, match="its card says"):
        registry.add(wrong, model)
    assert sorted(path.name for path in models.iterdir()) == before


def test_several_processes_may_build_at_once(tmp_path: Path) -> None:
    # spawn: a fork of a process that holds onnxruntime's threads may hang.
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        cards = list(pool.map(ensure_models, [tmp_path] * 3))

    assert cards[0] == cards[1] == cards[2]
    assert [path.name for path in tmp_path.glob(".*")] == [".lock"]
    Registry(tmp_path).open("phash")


def test_a_changed_file_is_refused(models: Path) -> None:
    with (models / "phash@1.onnx").open("ab") as stream:
        stream.write(b"\0")

    with pytest.raises(ModelRefused, match="SHA-256") as refused:
        Registry(models).open("phash")
    assert "Restore it" in refused.value.detail


def test_a_missing_file_is_a_missing_model(models: Path) -> None:
    (models / "phash@1.onnx").unlink()

    with pytest.raises(ModelNotFound, match=r"phash@1\.onnx is missing"):
        Registry(models).open("phash")


def test_other_weights_under_a_right_sha256_are_refused(models: Path) -> None:
    path, card_path = models / "efficientnet-lite0@1.onnx", models / "efficientnet-lite0@1.toml"
    model = onnx.load(path)
    stem = next(w for w in model.graph.initializer if w.name == "_conv_stem.weight")
    # Blue for red: the mistake of a caller who reads pictures with OpenCV.
    stem.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stem)[:, ::-1].copy(), stem.name))
    path.write_bytes(model.SerializeToString())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(card_path, load_card(card_path).sha256, sha256)

    with pytest.raises(ModelRefused, match=r"chelsea\.png gives an embedding") as refused:
        Registry(models).open("efficientnet-lite0@1")
    assert "new version" in refused.value.detail


def test_another_preprocessing_is_refused(models: Path) -> None:
    edit(models / "efficientnet-lite0@1.toml", 'resample = "bicubic"', 'resample = "lanczos"')

    with pytest.raises(ModelRefused, match="cosine"):
        Registry(models).open("efficientnet-lite0@1")


def test_a_model_without_known_answers_is_refused(models: Path) -> None:
    path = models / "phash@1.toml"
    path.write_text(path.read_text(encoding="utf-8").partition("[[golden]]")[0], encoding="utf-8")

    with pytest.raises(BadCard, match="no golden embedding"):
        Registry(models).open("phash")


def test_a_missing_golden_picture_is_refused(models: Path) -> None:
    (models / "golden" / "coffee.png").unlink()

    with pytest.raises(ModelRefused, match=r"coffee\.png cannot be read"):
        Registry(models).open("phash")


def test_an_input_that_is_not_the_cards_is_refused(models: Path) -> None:
    edit(models / "phash@1.toml", "width = 32", "width = 64")

    with pytest.raises(ModelRefused, match="its card says"):
        Registry(models).open("phash")


def test_a_file_that_is_no_model_is_refused(models: Path) -> None:
    (models / "phash@1.onnx").write_bytes(b"junk")
    card = load_card(models / "phash@1.toml")
    edit(models / "phash@1.toml", card.sha256, hashlib.sha256(b"junk").hexdigest())

    with pytest.raises(ModelRefused, match="onnxruntime cannot open"):
        Registry(models).open("phash")


def test_an_unknown_model_names_the_known(built: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ModelNotFound, match="efficientnet-lite0@1, efficientnet-lite0@1-int8, efficientnet-lite2@1"
    ):
        Registry(built).card("resnet")
    with pytest.raises(ModelNotFound, match="there are: none"):
        Registry(tmp_path).open("resnet")


def test_two_models_that_would_share_a_collection_are_refused(models: Path) -> None:
    shutil.copy(models / "efficientnet-lite0@1.toml", models / "other.toml")
    edit(models / "other.toml", 'name = "efficientnet-lite0"', 'name = "efficientnet_lite0"')

    with pytest.raises(BadCard, match="rename or remove"):
        Registry(models).cards()


def test_a_vector_that_is_not_finite_is_refused(built: Path) -> None:
    shape: list[str | int | None] = ["N", 224, 224, 3]
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["pixels", "axes"], ["sum"], keepdims=0),
        helper.make_node("Reshape", ["sum", "column"], ["sums"]),
        helper.make_node("Div", ["sums", "sums"], ["one"]),
        helper.make_node("Tile", ["one", "repeats"], ["embedding"]),
    ]
    weights = {"axes": [1, 2, 3], "column": [-1, 1], "repeats": [1, 1280]}
    graph = helper.make_graph(
        nodes,
        "divides",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 1280])],
        [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    embedder = OnnxEmbedder(
        Registry(built).card("efficientnet-lite0@1"), model.SerializeToString(), batch_size=2
    )
    pixels = np.ones((3, 224, 224, 3), np.uint8)

    assert embedder.embed_batch(pixels).shape == (3, 1280)
    pixels[2] = 0
    with pytest.raises(BadEmbedding, match="not finite"):
        embedder.embed_batch(pixels)


def test_batches_give_what_single_pictures_give(built: Path) -> None:
    registry = Registry(built)
    spec = registry.card("efficientnet-lite0@1").input
    golden = sorted((built / "golden").glob("*.png"))
    pixels = np.stack([open_picture(path.read_bytes()).pixels_for(spec) for path in golden * 2])

    single = registry.open("efficientnet-lite0@1").embed_batch(pixels)
    batched = registry.open("efficientnet-lite0@1", batch_size=3).embed_batch(pixels)

    assert single.dtype == batched.dtype == np.float32
    assert np.abs(single - batched).max() < 1e-4


def test_embeddings_survive_the_card(built: Path) -> None:
    registry = Registry(built)
    numbers = np.linspace(-1, 1, 1280, dtype=np.float32)
    bits = np.arange(8, dtype=np.uint8)
    lite, phash = registry.card("efficientnet-lite0@1"), registry.card("phash")

    assert np.abs(decode_embedding(lite, encode_embedding(lite, numbers)) - numbers).max() < 5e-4
    assert decode_embedding(phash, encode_embedding(phash, bits)).tolist() == bits.tolist()


@pytest.mark.parametrize("text", ["", "zz", "00" * 7, "AAAA"])
def test_a_golden_embedding_that_cannot_be_read_is_a_bad_card(built: Path, text: str) -> None:
    for card in Registry(built).cards():
        with pytest.raises(BadCard, match="golden embedding"):
            decode_embedding(card, text)
