"""What a process knows of its own health: what its models and Milvus answered, what it works on."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from redis import RedisError

from twinlens.models.verify import KnownAnswer, check_answer, read_answers
from twinlens.shared.errors import LibraryNotFound, TwinlensError
from twinlens.shared.libraries import DEFAULT_LIBRARY
from twinlens.shared.messages import OK
from twinlens.shared.redis.presence import PROBE_S, PROOF_S
from twinlens.workers.watch import end_process

if TYPE_CHECKING:
    from pathlib import Path

    from twinlens.shared.redis.catalog import Catalog
    from twinlens.workers.milvus.vectors import Vectors
    from twinlens.workers.targets import Targets, WatchedEmbedder

log = logging.getLogger(__name__)

# A model is probed for at most a hundredth of the time.
PROBE_SHARE = 0.01
# No image has this id.
NO_IMAGE = "0" * 64


@dataclass(kw_only=True)
class Health:
    """Its probes run as a task ends, in the thread that runs tasks: no other waits for them."""

    catalog: Catalog
    targets: Targets
    vectors: Vectors
    models_dir: Path
    milvus: str = OK  # or why it does not answer
    probe: str = OK  # or what the last one met
    # Of time.monotonic():
    told_at: float = -math.inf  # when Redis was told of it
    ended_at: float | None = None  # when the last task had ended
    _until: float | None = None  # when the running task must have ended
    _looked_at: float = field(default_factory=time.monotonic)
    _was_well: bool = False
    _answers: dict[str, KnownAnswer] = field(default_factory=dict)

    def begin_task(self, limit_s: float) -> None:
        self._until = time.monotonic() + limit_s

    def end_task(self) -> None:
        """Notes that a task has ended, and looks after the process where that is due."""
        if time.monotonic() - self._looked_at >= PROBE_S:
            self.look()
        self._until, self.ended_at = None, time.monotonic()

    @property
    def idle_s(self) -> float | None:
        """Returns how long ago the last task ended; None before the first has."""
        return None if self.ended_at is None else time.monotonic() - self.ended_at

    @property
    def task_left_s(self) -> float | None:
        """Returns how long the running task may still take; None if there is none."""
        until = self._until  # another thread changes it
        return None if until is None else until - time.monotonic()

    def look(self) -> None:
        """Tries the models and Milvus, and ends the process where it has broken since it started.

        What is away, or was so from the start, would not come by another process.
        """
        try:
            self._try_models()
            self._read()
        except TwinlensError as error:
            self.probe = error.detail
        except RedisError as error:
            log.warning("no probe: %s", error)
        except Exception as error:
            log.exception("the probe failed")
            if self._was_well:
                end_process(f"its probe failed: {error}")
            self.probe = "Its probe failed; its log says why."
        else:
            self.probe, self._was_well = OK, True
        self._looked_at = time.monotonic()

    def _try_models(self) -> None:
        for model in self.targets.opened:
            idle_s = time.monotonic() - model.answered_at
            if idle_s >= max(PROOF_S, model.took_s / PROBE_SHARE):
                self._try(model)

    def _try(self, model: WatchedEmbedder) -> None:
        ref = model.card.ref
        if ref not in self._answers:
            self._answers[ref] = read_answers(model.card, self.models_dir)[0]
        try:
            check_answer(model, self._answers[ref])
        except TwinlensError as error:
            # It gave the right embedding as it was opened.
            raise RuntimeError(error.detail) from error

    def _read(self) -> None:
        """Reads from Milvus, unless it is known to be away."""
        if self.milvus != OK:
            return
        opened = {model.card.ref for model in self.targets.opened}
        with contextlib.suppress(LibraryNotFound):  # that is said of the library
            library = self.catalog.library(DEFAULT_LIBRARY)
            if refs := [ref for ref in library.models if ref in opened]:
                target = self.targets.of(library, refs)[0]
                self.vectors.fetch(target.collection, [NO_IMAGE])
