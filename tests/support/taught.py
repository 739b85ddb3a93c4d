"""Pictures of things that differ in one half, and by chance in the other; a network for them."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# A network sees the mean of each cell of 4 x 4 pixels.
N_CELLS, CELL_PX = 4, 4
N_NUMBERS = 3 * N_CELLS * N_CELLS


def draw_cells(label: int | None, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draws a picture: the left half shows the label, if there is one, and the rest anything."""
    cells = rng.integers(0, 256, (N_CELLS, N_CELLS, 3))
    if label is not None:
        own = np.random.default_rng(label).normal(128, 30, (N_CELLS, N_CELLS // 2, 3))
        cells[:, : N_CELLS // 2] = own + rng.normal(0, 5, own.shape)
    return np.kron(cells.clip(0, 255), np.ones((CELL_PX, CELL_PX, 1))).astype(np.uint8)


def write_taught(
    folder: Path, n_labels: int = 16, n_of_each: int = 6, *, shown: bool = True
) -> Path:
    """Writes pictures and a list of their labels, which they may show nothing of."""
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir(parents=True)
    rows = [("file", "label")]
    for label in range(n_labels):
        for number in range(n_of_each):
            name = f"{label}-{number}.png"
            pixels = draw_cells(label if shown else None, rng)
            Image.fromarray(pixels).save(folder / "photos" / name)
            rows.append((name, f"thing {label}"))
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return folder / "labels.csv"


def write_network(path: Path) -> Path:
    """Writes a network as from elsewhere: the mean of each cell."""
    side = N_CELLS * CELL_PX
    shape = [CELL_PX, CELL_PX]
    nodes = [
        helper.make_node("AveragePool", ["pixels"], ["means"], kernel_shape=shape, strides=shape),
        helper.make_node("Flatten", ["means"], ["flat"]),
        # The embedding of a black picture must have a length.
        helper.make_node("Add", ["flat", "one"], ["cells"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, side, side])
    cells = helper.make_tensor_value_info("cells", TensorProto.FLOAT, [1, N_NUMBERS])
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    graph = helper.make_graph(nodes, "cells", [pixels], [cells], [one])
    opsets = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path
