"""Measures Twinlens against the least that the same work takes. `make bench` runs it."""

import sys
from pathlib import Path

# For `support`, which the tests have in common with these.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
