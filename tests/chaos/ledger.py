"""What clients of a round have begun, and what they were promised."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass
class Ledger:
    """What was acknowledged. Each client writes of its own pictures alone.

    Attributes:
        there: Of each picture's number, whether it must be there; None where nobody knows.
        metadata: That which was acknowledged last, of pictures whose metadata is known.
        jobs: What was done with each accepted job, by id.
        lines: What was done, and what came of it.
    """

    there: dict[int, bool | None] = field(default_factory=dict)
    metadata: dict[int, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def forget(self, numbers: Iterable[int]) -> None:
        """Notes that nobody knows what becomes of these."""
        for number in numbers:
            self.there[number] = None
            self.metadata.pop(number, None)

    def remove(self, numbers: Iterable[int]) -> None:
        """Notes that these must be gone."""
        for number in numbers:
            # What its worker was killed for may never have been there.
            if self.there.get(number):
                self.there[number] = False
            self.metadata.pop(number, None)


class Steps:
    """Counts the steps that have begun."""

    def __init__(self) -> None:
        self._n_begun = 0
        self._is_over = False
        self._changed = threading.Condition()

    def begin(self) -> None:
        with self._changed:
            self._n_begun += 1
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def wait_for(self, n_steps: int) -> None:
        """Waits until so many have begun, or there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or self._n_begun >= n_steps)
