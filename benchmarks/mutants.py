"""Puts small faults into the code, some in each package, and counts those that tests see.

    python -m benchmarks.mutants [HOW_MANY_A_PACKAGE]

The faults are mutmut's, by its section of pyproject.toml. It notes which tests run which function,
so each fault is looked for by those tests alone. The same ones are chosen each time.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

PACKAGES = ("api", "models", "shared", "workers")
# Whichever it is: the first run makes all faults, and notes which tests run what.
ANY = "twinlens.shared.chunking.x_chunk_items__mutmut_1"
# What mutmut calls the ways in which tests end that see a fault.
SEEN = ("killed", "timeout", "suspicious", "segfault")


def mutmut(*words: str) -> str:
    """Runs mutmut, and returns what it says."""
    command = [str(Path(sys.executable).parent / "mutmut"), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout)
    return done.stdout


def outcomes() -> dict[str, str]:
    """Returns each fault's outcome, by its name."""
    pairs = (line.split(": ") for line in mutmut("results", "--all", "True").splitlines() if line)
    return {name.strip(): outcome for name, outcome in pairs}


def main(n_faults: int) -> None:
    mutmut("run", ANY)
    faults = sorted(outcomes())
    chosen: dict[str, list[str]] = {}
    for package in PACKAGES:
        own = [name for name in faults if name.split(".")[1] == package]
        chosen[package] = random.Random(0).sample(own, min(n_faults, len(own)))
    mutmut("run", *(name for some in chosen.values() for name in some))
    by_fault = outcomes()
    for package, some in chosen.items():
        n_seen = sum(by_fault[name] in SEEN for name in some)
        counts = ", ".join(f"{n} {word}" for word, n in Counter(map(by_fault.get, some)).items())
        print(f"{package}: {n_seen / len(some):.0%} of {len(some)} seen ({counts})")
        for name in some:
            if by_fault[name] not in SEEN:
                print(f"    {name}: {by_fault[name]}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
