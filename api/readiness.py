"""Whether work could proceed: what is refused before its body is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from twinlens.api.probe import is_listening
from twinlens.shared.errors import Unavailable

if TYPE_CHECKING:
    from twinlens.api.accepting.limits import Limits


@dataclass(frozen=True)
class Readiness:
    """Checks the parts behind the API. A Redis that is down raises its own error."""

    limits: Limits
    milvus_uri: str

    def check(self, queue: Literal["search", "single"]) -> None:
        """Refuses a task that could not proceed.

        Raises:
            Unavailable: Milvus is down.
            QueueFull: Too many tasks are waiting.
        """
        self.limits.check_queue(queue)
        self._check_milvus()

    def check_bulk(self, n_bytes: int) -> None:
        """Refuses a bulk upload that could not proceed.

        Args:
            n_bytes: Size of the body, as far as it is known.

        Raises:
            Unavailable: Milvus is down.
            QueueFull: Too many pictures are waiting.
            StorageFull: The disk has no room for it.
        """
        self.limits.check_backlog()
        self.limits.check_disk(n_bytes)
        self._check_milvus()

    def is_milvus_listening(self) -> bool:
        """Returns whether something accepts connections at Milvus' address."""
        return is_listening(self.milvus_uri)

    def _check_milvus(self) -> None:
        if not self.is_milvus_listening():
            raise Unavailable("Milvus does not accept connections.")
