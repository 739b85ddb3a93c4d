"""A round's plan: the same from the same seed, and one that can be carried out."""

from __future__ import annotations

from chaos.plan import N_OWNERS, draw_plan
from hypothesis import given
from hypothesis.strategies import integers

SEEDS = integers(0, 2**40)


@given(SEEDS)
def test_a_seed_gives_the_same_plan_each_time(seed: int) -> None:
    assert draw_plan(seed) == draw_plan(seed)
    assert draw_plan(seed).scripts != draw_plan(seed + 1).scripts


@given(SEEDS)
def test_owners_change_only_what_they_have_uploaded(seed: int) -> None:
    """So it is known of each of their pictures what must become of it."""
    for script in draw_plan(seed).scripts[:N_OWNERS]:
        there: set[int] = set()
        for step in script:
            if step.action in ("upload", "add"):
                there.update(step.pictures)
            elif step.action in ("search", "describe", "delete", "delete many"):
                assert there.issuperset(step.pictures)
            else:
                assert there.isdisjoint(step.pictures)
            if step.action in ("delete", "delete many"):
                there.difference_update(step.pictures)


@given(SEEDS)
def test_strikes_come_while_there_is_work(seed: int) -> None:
    plan = draw_plan(seed)
    n_steps = sum(map(len, plan.scripts))
    assert plan.strikes
    assert all(0 <= strike.at_step < n_steps for strike in plan.strikes)
