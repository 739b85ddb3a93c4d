"""What was passed over: counted by kind, and named as it comes where that is asked for."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from twinlens.cli.words import counted
from twinlens.shared.names import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import PurePath

# Of kinds that have no plural.
_NOUNS = {"audio": "audio file"}


class PassedOver:
    """Counts files and folders that are not sent. No list is kept: there may be millions."""

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        """Begins with none.

        Args:
            say: Called with a line for each.
        """
        self._say = say
        self._counts: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._counts)

    @property
    def counts(self) -> dict[str, int]:
        """How many there are, by kind."""
        return dict(self._counts)

    def add(self, path: PurePath, kind: str) -> None:
        """Counts one of a kind, which is a noun; folders' kinds end so."""
        self._counts[kind] += 1
        if self._say is not None:
            self._say(f"passed over {printable(str(path))}: {kind}")

    def add_archived(self, n_files: int) -> None:
        """Counts files of archives that the service passed over."""
        if n_files:
            self._counts["archived file"] += n_files

    def __str__(self) -> str:
        n_folders = sum(n for kind, n in self._counts.items() if kind.endswith("folder"))
        sums = {"file": self._counts.total() - n_folders, "folder": n_folders}
        all_of_them = " and ".join(counted(n, kind) for kind, n in sums.items() if n)
        most_first = sorted(self._counts.items(), key=lambda one: (-one[1], one[0]))
        by_kind = ", ".join(counted(n, _NOUNS.get(kind, kind)) for kind, n in most_first)
        hint = "" if self._say else "; -v names them"
        return f"passed over {all_of_them}: {by_kind}{hint}"
