"""Nothing grows under constant load: `make soak MINUTES=20`.

Clients do what they do in rounds of chaos, and nothing is killed. After each script, all of its
pictures are removed. Every 10 s it is looked how much memory and how many descriptors each process
has, how many keys Redis has, and how many bytes are on the disk. What grows by more in an hour than
stands in BOUNDS is a fault; the first half of the time, in which caches fill, does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from chaos.good_client import GoodClient
from chaos.ledger import Ledger, Steps
from chaos.load import run_load
from chaos.plan import draw_plan
from chaos.scene import Scene, running_scene
from rich.console import Console
from rich.table import Table

from twinlens.models.registry import DEFAULT_MODELS, ensure_models
from twinlens.shared.redis.client import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

LIBRARY = "soak"
EVERY_S = 10.0
WARM_UP = 1 / 2
MB = 1_000_000
# By the beginning of a measure's name: most growth in an hour. What expires is bounded by how long
# it lives, which is longer than this runs: records of jobs, and so Valkey's memory and file.
BOUNDS = {
    "memory of api": 20 * MB,
    "memory of worker": 20 * MB,
    "memory of milvus": 60 * MB,
    "descriptors": 6.0,
    "keys that stay": 6.0,
    "disk: blobs": 2 * MB,
    "disk: milvus": 60 * MB,
    "disk: sockets": 0.0,
}
# So that what is kept of a job goes while we look, and caches fill in the first minutes.
SETTINGS = {
    "TWINLENS_JOB_TTL_S": "60",
    "TWINLENS_ROLLBACK_S": "30",
    "TWINLENS_CACHE_BYTES": "1048576",
}


class Sample(NamedTuple):
    """What there was at some moment, by the name of the measure."""

    at_s: float
    values: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--milvus", default="lite", choices=("lite", "standalone"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="twinlens-soak-") as folder:
        models_dir = Path(folder, "models")
        ensure_models(models_dir, DEFAULT_MODELS)
        with running_scene(Path(folder, "scene"), models_dir, args.milvus, **SETTINGS) as scene:
            samples = soak(scene, args.minutes * 60)
    sys.exit(1 if show(samples) else 0)


def soak(scene: Scene, for_s: float) -> list[Sample]:
    """Runs load for a while, and looks meanwhile."""
    samples: list[Sample] = []
    is_over = threading.Event()

    def watch() -> None:
        began = time.monotonic()
        while not is_over.wait(EVERY_S):
            samples.append(Sample(time.monotonic() - began, dict(_look(scene))))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    client = GoodClient(scene.url)
    plan = {"models": ["phash@1", "colours@1"]}
    client.ask("PUT", f"/v1/libraries/{LIBRARY}", {201}, json=plan)
    deadline = time.monotonic() + for_s
    for seed in itertools.count():
        ledger = Ledger()
        faults = run_load(scene, LIBRARY, draw_plan(seed), ledger, Steps())
        if faults:
            raise SystemExit("\n".join([*ledger.lines, *faults]))
        params = {"library": LIBRARY}
        wanted = {"filter": 'added_at > "1970-01-01"'}
        answer, _ = client.ask("POST", "/v1/images/delete", {202}, params=params, json=wanted)
        client.ended(answer.json()["id"])
        if time.monotonic() > deadline:
            break
    is_over.set()
    watcher.join()
    client.close()
    return samples


def _look(scene: Scene) -> Iterator[tuple[str, float]]:
    for name, process in scene.processes():
        yield f"memory of {name}", process.memory_info().rss
        yield f"descriptors of {name}", process.num_fds()
    with connect(scene.address("redis_url")) as redis:
        memory: dict[str, int] = redis.info("memory")
        yield "memory in Redis", memory["used_memory"]
        keys = list(redis.scan_iter(count=1000))
        n_staying = sum(redis.pttl(key) == -1 for key in keys)
        yield "keys that stay", n_staying
        yield "keys that expire", len(keys) - n_staying
    for folder in scene.data_dir.iterdir():
        if folder.is_dir() and folder.name != "models":
            kinds = folder.iterdir() if folder.name == "blobs" else [folder]
            for kind in kinds:
                path = kind.relative_to(scene.data_dir)
                yield f"disk: {path}", _bytes_below(kind)


def _bytes_below(folder: Path) -> float:
    n_bytes = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # just removed
                n_bytes += Path(place, name).stat().st_size
    return n_bytes


def growth_per_hour(points: list[tuple[float, float]]) -> float:
    """Returns the slope of the median pair of points (Theil and Sen), times an hour.

    Args:
        points: Each a time in seconds and a value.
    """
    slopes = [
        (last - first) / (later - earlier)
        for (earlier, first), (later, last) in itertools.combinations(points, 2)
    ]
    return 3600 * statistics.median(slopes) if slopes else 0.0


def show(samples: list[Sample]) -> list[str]:
    """Prints how each measure grew, and returns those that grew too much."""
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for sample in samples:
        for name, value in sample.values.items():
            points[name].append((sample.at_s, value))
    columns = ("measure", "medians of each quarter", "growth in an hour", "bound")
    table = Table(*columns, title="Soak")
    until_s = samples[-1].at_s
    too_much = []
    for name, measured in sorted(points.items()):
        growth = growth_per_hour([one for one in measured if one[0] >= until_s * WARM_UP])
        bound = next((most for kind, most in BOUNDS.items() if name.startswith(kind)), None)
        if bound is not None and growth > bound:
            too_much.append(name)
        told = "" if bound is None else f"{bound:,.0f}" + (" exceeded" if name in too_much else "")
        table.add_row(name, _quarters(measured, until_s), f"{growth:+,.0f}", told)
    Console(width=150).print(table)
    return too_much


def _quarters(measured: list[tuple[float, float]], until_s: float) -> str:
    """Tells what grows for ever from what has grown, as a cache."""
    parts = [
        [value for at_s, value in measured if number < 4 * at_s / until_s <= number + 1]
        for number in range(4)
    ]
    return "  ".join(f"{statistics.median(part):,.0f}" if part else "-" for part in parts)


if __name__ == "__main__":
    main()
