"""Runs the benchmarks, prints a table, and writes results.json beside this file.

Both sides of a ratio run in turn on the same machine, A B A B, so that a drift of its speed
touches both; the medians of the rounds are divided.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks import bulk, decode, memory, models, report, scaling, search, seed
from benchmarks.runner import run
from benchmarks.setup import Results, Setup

GROUPS: dict[str, Callable[[Setup], Results]] = {
    "bulk": bulk.measure,
    "seed": seed.measure,
    "models": models.measure,
    "scaling": scaling.measure,
    "search": search.measure,
    "memory": memory.measure,
    "decode": decode.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="NAME,…", help=f"some of {', '.join(GROUPS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes; nothing is written")
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(GROUPS)
    if unknown := sorted(set(names) - GROUPS.keys()):
        parser.error(f"nothing is named {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    results: Results = {}
    try:
        for name in names:
            results |= run(GROUPS[name], is_quick=args.quick)
    finally:
        report.show(results)


if __name__ == "__main__":
    main()
