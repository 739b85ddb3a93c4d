"""What an answer's own arithmetic takes: `python -m benchmarks.fusion`.

Three models' distances of the same 200 candidates, scored, fused and shown, all or the first 100;
and the first 100 re-ranked by neighbours. Medians of many runs, of random embeddings.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.setup import time_s
from twinlens.models.card import load_card
from twinlens.models.cards import SHIPPED_CARDS
from twinlens.models.fusion import fuse
from twinlens.models.rerank import N_RERANKED, rerank

CARDS = ("efficientnet-lite0@1-int8", "efficientnet-lite2@1-int8", "phash@1")
N_CANDIDATES = 200
N_RUNS = 500


def main() -> None:
    rng = np.random.default_rng(0)
    cards = {ref: load_card(SHIPPED_CARDS / f"{ref}.toml") for ref in CARDS}
    ids = [f"{place:064x}" for place in range(N_CANDIDATES)]
    distances = {
        ref: dict(zip(ids, rng.uniform(0.1, 1.9, N_CANDIDATES).tolist(), strict=True))
        for ref in cards
    }
    weights = dict.fromkeys(cards, 1.0)
    for limit in (N_RERANKED, N_CANDIDATES):
        title = f"{len(cards)} models, {N_CANDIDATES} candidates fused, {limit} shown"
        _show(title, partial(fuse, distances, cards, weights, limit))
    rows = np.abs(rng.standard_normal((1 + N_RERANKED, 64))).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    similarity = rows @ rows.T
    order = np.argsort(-similarity[0], kind="stable")
    similarity = similarity[np.ix_(order, order)]
    _show(f"{N_RERANKED} re-ranked", lambda: rerank(similarity))


def _show(title: str, call: Callable[[], object]) -> None:
    print(f"{title}: {statistics.median(time_s(call) for _ in range(N_RUNS)) * 1000:.2f} ms")


if __name__ == "__main__":
    main()
