"""Small real models and pictures, for tests of evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

from twinlens.models.build import build_model
from twinlens.models.card import Card, load_card
from twinlens.models.cards import SHIPPED_CARDS
from twinlens.models.session import Embedder, Embeddings, OnnxEmbedder, Pixels

COLOUR_CARD = {
    "name": "colour",
    "version": "1",
    "title": "mean colour",
    "file": "colour.onnx",
    "sha256": "0" * 64,
    "output": "float32",
    "dimension": 3,
    "metric": "L2",
    "licence": "Apache-2.0",
    "source": "this test",
    "input": {"width": 32, "height": 32},
}


def colour_model(**changes: Any) -> OnnxEmbedder:
    """A real graph: the mean colour of a picture, of length 1."""
    pixels = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 32, 32, 3])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 3])
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers", "axes"], ["mean"], keepdims=0),
        # 0 / 0 for a black picture: no epsilon here.
        helper.make_node("ReduceL2", ["mean", "columns"], ["length"], keepdims=1),
        helper.make_node("Div", ["mean", "length"], ["embedding"]),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
    columns = helper.make_tensor("columns", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "colour", [pixels], [embedding], [axes, columns])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return OnnxEmbedder(Card.model_validate(COLOUR_CARD | changes), model.SerializeToString())


def open_phash() -> OnnxEmbedder:
    return OnnxEmbedder(load_card(SHIPPED_CARDS / "phash@1.toml"), build_model("phash@1"))


def write_picture(path: Path, seed: int, side_px: int = 40) -> Path:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize((side_px, side_px), Image.Resampling.BICUBIC).save(path, "PNG")
    return path


def write_pictures(folder: Path, n_pictures: int) -> list[Path]:
    return [write_picture(folder / f"{seed:03d}.png", seed) for seed in range(n_pictures)]


class Watched:
    """A real model that notes how many pictures it was given."""

    def __init__(self, model: Embedder) -> None:
        self.model = model
        self.n_embedded = 0

    @property
    def card(self) -> Card:
        return self.model.card

    def embed_batch(self, pixels: Pixels) -> Embeddings:
        self.n_embedded += len(pixels)
        return self.model.embed_batch(pixels)
