"""Parts are killed and stopped while they work: nothing that was accepted is lost.

`make chaos` plays more rounds; `make chaos SEED=… ROUNDS=1` plays one of them again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from chaos.plan import draw_plan
from chaos.rounds import play_round
from chaos.scene import Scene, running_scene
from support.servers import needs_standalone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVERS = ("lite", pytest.param("standalone", marks=needs_standalone))
FIRST_SEED = int(os.environ.get("CHAOS_SEED", "1"))
N_ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "2"))


@pytest.fixture(scope="module")
def scene(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, models_dir: Path
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp(f"chaos-{request.param}")
    with running_scene(folder, models_dir, request.param) as scene:
        yield scene


@pytest.mark.parametrize("scene", SERVERS, indirect=True)
@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + N_ROUNDS))
def test_nothing_is_lost(scene: Scene, seed: int) -> None:
    faults = play_round(scene, draw_plan(seed))
    assert not faults, faults
