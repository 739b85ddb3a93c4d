"""Runs the same model behind Mosec, LitServe and Twinlens, with 1, 4 and 16 clients.

A peer answers a JPEG with its vector. Twinlens answers when it has stored the picture, embedded
it and written the vector to Milvus: what is durable then costs more than what is only computed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from benchmarks import report
from benchmarks.bare import BareLoop
from benchmarks.peers.load import Load, Target, post_all
from benchmarks.peers.model import REF
from benchmarks.peers.servers import PATHS, run_server
from benchmarks.photos import Photos
from benchmarks.runner import run
from benchmarks.service import WAIT, Service, serve
from benchmarks.setup import Results, Setup, percentile, time_s

PYTHON = Path(__file__).resolve().parents[2] / ".venv-peers" / "bin" / "python"
CLIENTS = (1, 4, 16)
LIBRARY = "peers"
N_WARM = 32

Loads = dict[tuple[str, int], list[Load]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--python", type=Path, default=PYTHON, help="with locks/peers.txt")
    parser.add_argument("--quick", action="store_true", help="small sizes; nothing is written")
    args = parser.parse_args()
    report.show(run(lambda setup: measure(setup, args.python), is_quick=args.quick))


def measure(setup: Setup, python: Path) -> Results:
    """Measures requests a second, and how long 95 per cent of them take at most."""
    photos, bare_s = Photos(), list[float]()
    loads: Loads = defaultdict(list)
    with ExitStack() as stack:
        targets = {"twinlens": _twinlens(stack.enter_context(serve(setup)), photos)}
        for name in PATHS:
            warm = [photos.take() for _ in range(N_WARM)]
            targets[name] = stack.enter_context(run_server(name, python, setup, warm))
        bare = stack.enter_context(closing(BareLoop(setup.models, [REF])))
        bare.run(photos.write(setup.work / "warm", N_WARM))
        for number in range(setup.size.rounds):
            paths = photos.write(setup.work / f"bare-{number}", setup.size.requests)
            bare_s.append(time_s(partial(bare.run, paths)))
            _run_round(setup, targets, photos, loads)
    return {
        "peers_bare_per_s": setup.size.requests / statistics.median(bare_s),
        **_rates(loads, setup.size.requests),
    }


def _twinlens(service: Service, photos: Photos) -> Target:
    service.put_library(LIBRARY, [REF])
    url = f"{str(service.client.base_url).rstrip('/')}/v1/images?library={LIBRARY}"
    target = Target(url, lambda body: json.loads(body)["status"] == "succeeded", WAIT)
    post_all(target, [photos.take() for _ in range(N_WARM)], max(CLIENTS))
    return target


def _run_round(setup: Setup, targets: dict[str, Target], photos: Photos, loads: Loads) -> None:
    for n_clients in CLIENTS:
        for name, target in targets.items():
            contents = [photos.take() for _ in range(setup.size.requests)]
            loads[name, n_clients].append(post_all(target, contents, n_clients))


def _rates(loads: Loads, n_requests: int) -> Results:
    results: Results = {}
    for (name, n_clients), rounds in sorted(loads.items()):
        key = f"peers_{name}_{n_clients}_clients"
        all_ms = [ms for one in rounds for ms in one.requests_ms]
        results[f"{key}_per_s"] = n_requests / statistics.median(one.whole_s for one in rounds)
        results[f"{key}_p95_ms"] = percentile(all_ms, 95)
    return results


if __name__ == "__main__":
    main()
