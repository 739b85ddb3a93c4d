"""A bulk job against the article that this began with: a session a picture, one after another."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from benchmarks.photos import Photos
from benchmarks.service import Service, serve
from benchmarks.setup import Results, Setup, medians, time_s
from twinlens.models.card import Card
from twinlens.models.registry import Registry

MODELS = {"lite0": "efficientnet-lite0@1-int8", "resnet50": "resnet50@1"}


def measure(setup: Setup) -> Results:
    """Measures both with one model, the same ONNX file."""
    _export_resnet50(setup.models)
    photos = Photos()
    with serve(setup) as service:
        results = [_compare(setup, service, photos, name) for name in MODELS]
    return {name: value for one in results for name, value in one.items()}


def _export_resnet50(models_dir: Path) -> None:
    """Exports it with random weights, which are as fast as any."""
    command = [sys.executable, "-P", "-m", "twinlens.cli.main", "models", "export", "resnet50"]
    command += ["--weights", "random", "--dir", str(models_dir)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _compare(setup: Setup, service: Service, photos: Photos, name: str) -> Results:
    size, registry = setup.size, Registry(setup.models)
    card = registry.card(MODELS[name])
    embed = partial(_embed_all, registry.path_of(card), card)
    service.put_library(name, [card.ref])
    rounds = []
    for number in range(size.rounds + 1):
        paths = photos.write(setup.work / f"{name}-{number}", size.photos)
        seed_s = time_s(partial(embed, paths[: size.seed_photos]))
        bulk_s = service.index(paths, name).searchable_s
        rounds.append(
            {"seed": size.seed_photos / seed_s, "bulk": size.photos / bulk_s},
        )
    # The first round is for the workers to open their sessions.
    rates = medians(rounds[1:])
    return {
        f"bulk_over_seed_{name}": rates["bulk"] / rates["seed"],
        f"bulk_{name}_pictures_per_s": rates["bulk"],
        f"seed_{name}_pictures_per_s": rates["seed"],
    }


def _embed_all(model: Path, card: Card, paths: list[Path]) -> None:
    for path in paths:
        _embed(model, card, path)


def _embed(model: Path, card: Card, path: Path) -> NDArray[np.float32]:
    """Embeds a picture as the article did. Preprocessing is inside our graphs."""
    session = ort.InferenceSession(model)
    with Image.open(path) as image:
        resized = image.convert("RGB").resize((card.input.width, card.input.height))
    [rows] = session.run(None, {"images": np.asarray(resized)[None]})
    embedding: NDArray[np.float32] = rows[0] / np.linalg.norm(rows[0])
    return embedding
