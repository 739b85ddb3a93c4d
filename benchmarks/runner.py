"""Runs a measurement, with what it needs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import report
from benchmarks.setup import FULL, QUICK, Results, Setup
from twinlens.models.registry import ensure_models


def run(measure: Callable[[Setup], Results], *, is_quick: bool) -> Results:
    """Runs one measurement in a folder of its own, and keeps what it found."""
    with tempfile.TemporaryDirectory(prefix="twinlens-bench-") as folder:
        models_dir, work = Path(folder, "models"), Path(folder, "work")
        ensure_models(models_dir)
        work.mkdir()
        results = measure(Setup(work, models_dir, QUICK if is_quick else FULL))
    if not is_quick:
        report.keep(results)
    return results
