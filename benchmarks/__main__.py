"""Runs the benchmarks, prints a table, and writes results.json beside this file.

Both sides of a ratio run in turn on the same machine, A B A B, so that a drift of its speed
touches both; the medians of the rounds are divided.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table
from tests.photos import make_photos

from benchmarks.bare import BareLoop
from twinlens.cli.background import running_service
from twinlens.models.registry import ensure_models

RESULTS = Path(__file__).with_name("results.json")
WAIT = {"Prefer": "wait=60"}


def measure_bulk(
    url: str, models_dir: Path, work: Path, args: argparse.Namespace
) -> dict[str, float]:
    """Bulk job, accepted → all searchable, against the bare loop."""
    bare = BareLoop(models_dir, os.cpu_count() or 1)
    bare.run(make_photos(work / "warm", 16, seed=-1))
    bare_s, bulk_s, accept_s = [], [], []
    for number in range(args.rounds):
        photos = make_photos(work / f"round-{number}", args.photos, seed=number)
        started = time.perf_counter()
        bare.run(photos)
        bare_s.append(time.perf_counter() - started)
        accepted_s, searchable_s = index(url, photos)
        accept_s.append(accepted_s)
        bulk_s.append(searchable_s)
    bare.close()
    return {
        "bulk_pictures_per_s": args.photos / statistics.median(bulk_s),
        "bare_pictures_per_s": args.photos / statistics.median(bare_s),
        "bulk_over_bare": statistics.median(bare_s) / statistics.median(bulk_s),
        "bulk_accept_s": statistics.median(accept_s),
    }


def index(url: str, photos: list[Path]) -> tuple[float, float]:
    """Posts photos as one bulk job: seconds until accepted, and from then until searchable."""
    files = [("files", (path.name, path.read_bytes(), "image/jpeg")) for path in photos]
    started = time.perf_counter()
    job = httpx.post(f"{url}/v1/images/bulk", files=files, timeout=120).raise_for_status().json()
    accepted = time.perf_counter()
    while job["finished_at"] is None:
        job = httpx.get(url + job["links"]["self"], headers=WAIT, timeout=90).json()
    ended = time.perf_counter()
    if job["progress"]["succeeded"] != len(photos):
        raise SystemExit(f"not all photos were indexed: {job['progress']}")
    return accepted - started, ended - accepted


def measure_search(url: str, work: Path, n_searches: int) -> dict[str, float]:
    """One client, one search after another: the whole, and the stages that the answer names."""
    photos = make_photos(work / "queries", n_searches + 5, seed=10_000)
    whole_ms, stages = [], []
    with httpx.Client(base_url=url, headers=WAIT, timeout=90) as client:
        for path in photos:
            started = time.perf_counter()
            answer = client.post("/v1/search", files={"file": (path.name, path.read_bytes())})
            whole_ms.append((time.perf_counter() - started) * 1000)
            stages.append(answer.raise_for_status().json()["result"]["timing_ms"])
    whole_ms, stages = whole_ms[5:], stages[5:]  # the first ones warm the connection
    work_ms = [one["decode"] + one["embed"] + one["search"] for one in stages]
    overhead_ms = [whole - work for whole, work in zip(whole_ms, work_ms, strict=True)]
    return {
        "search_p50_ms": statistics.median(whole_ms),
        "search_p95_ms": statistics.quantiles(whole_ms, n=20)[-1],
        "search_overhead_p50_ms": statistics.median(overhead_ms),
        **{
            f"search_{stage}_p50_ms": statistics.median(one[stage] for one in stages)
            for stage in ("queued", "decode", "embed", "search", "fuse")
        },
    }


def show(results: dict[str, float]) -> None:
    table = Table("measure", "value", title="Twinlens benchmarks")
    table.columns[1].justify = "right"
    for name, value in results.items():
        table.add_row(name, f"{value:.3f}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photos", type=int, default=256, help="photos a round")
    parser.add_argument("--searches", type=int, default=60)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="twinlens-bench-") as folder:
        work = Path(folder)
        data_dir = work / "data"
        ensure_models(data_dir / "models")
        with running_service(data_dir) as service:
            results = measure_bulk(service.url, data_dir / "models", work, args)
            results |= measure_search(service.url, work, args.searches)
    results = {name: round(value, 4) for name, value in results.items()}
    show(results)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
