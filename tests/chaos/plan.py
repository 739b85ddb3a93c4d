"""What happens in a round: drawn from its seed, before anything runs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Literal, NamedTuple

Part = Literal["api", "worker-search", "worker-bulk", "valkey", "milvus"]
Action = Literal[
    "upload",  # pictures in one bulk job
    "break off",  # a bulk upload whose connection ends in the middle
    "cancel",  # a bulk upload that is cancelled as soon as it was accepted
    "retry",  # a bulk upload with a damaged picture, which is then retried
    "add",  # one picture
    "search",
    "describe",  # one image gets other metadata
    "delete",  # one image
    "delete many",
    "change",  # the library gets other models
    "give up",  # the same, cancelled at once
    "roll back",
    "remove",  # a library is made, filled and removed
]

# Killed most often: where most of the work is. Its child is a process that works, under a master.
TARGETS: tuple[tuple[Part, bool], ...] = (
    ("api", False),
    ("api", True),
    ("worker-search", False),
    ("worker-search", True),
    ("worker-bulk", False),
    ("worker-bulk", True),
    ("worker-bulk", True),
    ("valkey", False),
    ("milvus", False),
)
WAYS: dict[Action, tuple[str, ...]] = {
    "upload": ("form", "zip", "tar", "listing"),
    "break off": ("form", "zip", "tar"),
    "add": ("form", "raw"),
    "search": ("file", "id"),
    "delete many": ("ids", "filter"),
}
MODELS = (("phash@1",), ("colours@1",), ("phash@1", "colours@1"))
# Most pictures of what takes fresh ones.
N_FRESH: dict[Action, int] = {"upload": 16, "break off": 16, "cancel": 16, "retry": 3, "add": 1}
# What owners do, and how often.
OFTEN: dict[Action, int] = {
    "upload": 4,
    "break off": 1,
    "cancel": 1,
    "retry": 1,
    "add": 3,
    "search": 2,
    "describe": 4,
    "delete": 3,
    "delete many": 2,
}
N_OWNERS = 3
N_STEPS = 8
N_STRIKES = (3, 6)
# Those that both rivals write, so that nobody knows what becomes of them.
RIVALS = tuple(range(4))


class Strike(NamedTuple):
    """A part is killed, or stands still for a while."""

    at_step: int  # once so many steps of all clients have begun
    after_s: float  # and so long after that
    part: Part
    is_child: bool
    stop_s: float  # 0: it is killed


class Step(NamedTuple):
    """Something that a client does, and waits for. Pictures are numbers."""

    action: Action
    pictures: tuple[int, ...] = ()
    way: str = ""
    value: int = 0  # new metadata, or which models


class Plan(NamedTuple):
    """A round: clients that work side by side, each through its own steps."""

    seed: int
    strikes: tuple[Strike, ...]
    scripts: tuple[tuple[Step, ...], ...]

    def describe(self) -> str:
        lines = [f"seed {self.seed}", *map(str, self.strikes)]
        for number, script in enumerate(self.scripts):
            lines += [f"client {number}:", *(f"  {step}" for step in script)]
        return "\n".join(lines)


def draw_plan(seed: int) -> Plan:
    rng = random.Random(seed)
    owners = [tuple(_own(rng, range(100 * n, 100 * (n + 1)))) for n in range(1, N_OWNERS + 1)]
    rivals = [tuple(_fight(rng)) for _ in range(2)]
    scripts = (*owners, *rivals, tuple(_administer(rng)))
    n_steps = sum(map(len, scripts))
    strikes = sorted(_strike(rng, n_steps) for _ in range(rng.randint(*N_STRIKES)))
    return Plan(seed, tuple(strikes), scripts)


def _strike(rng: random.Random, n_steps: int) -> Strike:
    part, is_child = rng.choice(TARGETS)
    stop_s = rng.choice((0.0, 0.0, round(rng.uniform(1, 5), 1)))
    at_step = rng.randrange(n_steps * 3 // 4)
    return Strike(at_step, round(rng.uniform(0, 0.5), 2), part, is_child, stop_s)


def _own(rng: random.Random, numbers: range) -> Iterator[Step]:
    """Gives what a client does with pictures that nobody else knows."""
    fresh, there = iter(numbers), set[int]()
    for action in ("upload", *rng.choices(list(OFTEN), list(OFTEN.values()), k=N_STEPS - 1)):
        if action in N_FRESH or not there:
            done = action if action in N_FRESH else "add"
            pictures = list(islice(fresh, rng.randint(1, N_FRESH[done])))
            if action == "upload":  # some once more
                pictures += rng.sample(sorted(there), min(len(there), 2))
        else:
            done = action
            n_pictures = rng.randint(2, 5) if action == "delete many" else 1
            pictures = rng.sample(sorted(there), min(len(there), n_pictures))
        yield _step(rng, done, pictures)
        if done in ("upload", "add"):
            there.update(pictures)
        elif done in ("delete", "delete many"):
            there.difference_update(pictures)


def _fight(rng: random.Random) -> Iterator[Step]:
    """Gives what a client does with pictures that another client changes meanwhile."""
    actions: tuple[Action, ...] = ("upload", "upload", "add", "describe", "delete", "delete many")
    for action in rng.choices(actions, k=N_STEPS):
        n_pictures = len(RIVALS) if action in ("upload", "delete many") else 1
        yield _step(rng, action, rng.sample(RIVALS, n_pictures))


def _administer(rng: random.Random) -> Iterator[Step]:
    actions: tuple[Action, ...] = ("change", "change", "give up", "roll back", "remove", "search")
    for action in rng.choices(actions, k=N_STEPS):
        yield _step(rng, action, list(RIVALS) if action in ("remove", "search") else [])


def _step(rng: random.Random, action: Action, pictures: list[int]) -> Step:
    way = rng.choice(WAYS.get(action, ("",)))
    return Step(action, tuple(pictures), way, rng.randrange(1_000_000))
