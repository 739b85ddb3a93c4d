"""Where files are that tests read."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
# Beside the project, where there is one: photos and odd files.
EVAL = ROOT.parent / "shared" / "eval"
# What is shipped.
PACKAGES = ("api", "cli", "client", "models", "shared", "workers")
