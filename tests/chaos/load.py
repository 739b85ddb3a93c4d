"""Clients that do side by side what the plan says."""

from __future__ import annotations

import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from chaos import changes, uploads
from chaos.good_client import GoodClient
from chaos.plan import N_OWNERS, Action, Plan, Step
from chaos.speaker import Speaker

if TYPE_CHECKING:
    from collections.abc import Callable

    from chaos.ledger import Ledger, Steps
    from chaos.scene import Scene

ACTIONS: dict[Action, Callable[[Speaker, Step], str]] = {
    "upload": uploads.upload,
    "break off": uploads.break_off,
    "cancel": uploads.cancel,
    "retry": uploads.retry,
    "add": uploads.add,
    "search": changes.search,
    "describe": changes.describe,
    "delete": changes.delete,
    "delete many": changes.delete_many,
    "change": changes.change,
    "give up": changes.give_up,
    "roll back": changes.roll_back,
    "remove": changes.remove,
}


def run_load(scene: Scene, library: str, plan: Plan, ledger: Ledger, steps: Steps) -> list[str]:
    """Runs all clients to the end of their scripts.

    Args:
        scene: The service.
        library: Whose pictures they change.
        plan: The scripts.
        ledger: Gets what they are promised.
        steps: Counts theirs.

    Returns:
        What clients met that they must not meet.
    """

    def play(number: int) -> None:
        client = GoodClient(scene.url)
        is_owner = number < N_OWNERS
        speaker = Speaker(client, library, plan.seed, is_owner, scene.listed, ledger)
        try:
            for place, step in enumerate(plan.scripts[number]):
                speaker.key = f"{plan.seed}-{number}-{place}"
                steps.begin()
                ledger.lines.append(f"{speaker.key} {step}: {ACTIONS[step.action](speaker, step)}")
        finally:
            client.close()

    with ThreadPoolExecutor(len(plan.scripts)) as pool:
        played = [pool.submit(play, number) for number in range(len(plan.scripts))]
    steps.end()
    errors = [error for one in played if (error := one.exception()) is not None]
    return ["".join(traceback.format_exception(error)) for error in errors]
