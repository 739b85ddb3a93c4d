"""How many processes and threads there are, by the cores that are ours."""

from __future__ import annotations

import os

import pytest

from twinlens.workers.process.cores import n_cores


def test_the_cores_that_we_may_use_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 5}, raising=False)
    assert n_cores() == 3


@pytest.mark.parametrize(("n_there", "expected"), [(8, 8), (None, 1)])
def test_where_that_cannot_be_asked_all_are(
    monkeypatch: pytest.MonkeyPatch, n_there: int | None, expected: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: n_there)
    assert n_cores() == expected
