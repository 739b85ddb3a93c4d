"""The goals, the table, and results.json: one flat object of numbers."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.setup import Results

RESULTS = Path(__file__).with_name("results.json")
AT_LEAST = {
    "bulk_over_bare": 0.85,
    "bulk_over_seed_lite0": 10.0,
    "bulk_over_seed_resnet50": 5.0,
    "two_workers_over_one": 1.9,
    "decode_12mp_cosine": 0.999,
}
AT_MOST = {
    "worker_cpu_over_bare": 1.08,
    "multi_model_penalty": 1.05,
    "search_overhead_p50_ms": 5.0,
    "search_overhead_p99_ms": 10.0,
    "search_p95_bulk_over_idle": 2.0,
    "api_rss_growth_mb": 30.0,
    "worker_rss_growth": 1.02,
    "decode_12mp_over_pillow": 0.16,
}


def show(results: Results) -> None:
    """Prints what was measured, with the goal where there is one."""
    table = Table("measure", "value", "goal", "met?", title="Twinlens benchmarks")
    for column in table.columns[1:3]:
        column.justify = "right"
    for name, value in results.items():
        table.add_row(name, f"{value:.3f}", *_judge(name, value))
    Console().print(table)


def keep(results: Results) -> None:
    """Writes results, and leaves those of other measurements as they are."""
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    rounded = {name: round(value, 4) for name, value in results.items()}
    RESULTS.write_text(json.dumps(before | rounded, indent=2) + "\n", encoding="utf-8")


def _judge(name: str, value: float) -> tuple[str, str]:
    if name in AT_LEAST:
        return f"≥ {AT_LEAST[name]:g}", _told(is_met=value >= AT_LEAST[name])
    if name in AT_MOST:
        return f"≤ {AT_MOST[name]:g}", _told(is_met=value <= AT_MOST[name])
    return "", ""


def _told(*, is_met: bool) -> str:
    return "[green]yes[/]" if is_met else "[red]no[/]"
