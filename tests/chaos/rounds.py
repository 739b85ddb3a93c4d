"""One round: parts are killed under load, and then all is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
from chaos.audit import Audit
from chaos.ledger import Ledger, Steps
from chaos.load import run_load
from chaos.strikes import Striker

if TYPE_CHECKING:
    from chaos.plan import Plan
    from chaos.scene import Scene


def play_round(scene: Scene, plan: Plan) -> str:
    """Plays a round in a library of its own.

    Returns:
        What is wrong, and how to see it again; nothing where all is as promised.
    """
    library = f"round-{plan.seed}"
    models = {"models": ["phash@1", "colours@1"]}
    url = f"{scene.url}/v1/libraries/{library}"
    httpx.put(url, json=models, timeout=60).raise_for_status()
    ledger, steps = Ledger(), Steps()
    striker = Striker(scene, plan.strikes, steps)
    striker.start()
    faults = run_load(scene, library, plan, ledger, steps)
    striker.join()
    faults += Audit(scene, library, plan.seed, ledger).faults()
    if not faults:
        httpx.delete(url, headers={"Prefer": "wait=60"}, timeout=90).raise_for_status()
        return ""
    again = f"make chaos SEED={plan.seed} ROUNDS=1"
    return "\n".join([*faults, plan.describe(), *striker.told, *ledger.lines, again])
