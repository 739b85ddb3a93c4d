"""The time of this process, which can be moved on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


class Clock:
    """Wall time; monotonic clocks go on as they do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._really = time.time
        self.ahead_s = 0.0
        monkeypatch.setattr(time, "time", lambda: self._really() + self.ahead_s)
