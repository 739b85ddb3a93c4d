"""A whole service with small models, as `twinlens up` runs it."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from support.tiny_pair import pair_card, picture_graph, text_graph, tokenizer_file

from twinlens.cli.service.background import running_service
from twinlens.models.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from chaos.plan import Part

N_BULK_PROCESSES = 2
# So that there are many chunks of few pictures.
SETTINGS = {"TWINLENS_CHUNK_ITEMS": "3"}


@dataclass(frozen=True)
class Scene:
    """A service that runs.

    Attributes:
        url: Of its API.
        data_dir: Where it keeps what it has.
        listed: Where its listings' files are.
    """

    url: str
    data_dir: Path
    listed: Path

    def process(self, part: Part, *, is_child: bool = False) -> psutil.Process | None:
        """Returns a part's process, or its youngest child; None while there is none."""
        pids = self._kept()["pids"]
        if part not in pids:
            return None
        try:
            process = psutil.Process(pids[part])
            children = process.children() if is_child else [process]
        except psutil.NoSuchProcess:
            return None
        return max(children, key=lambda one: one.pid, default=None)

    def processes(self) -> Iterator[tuple[str, psutil.Process]]:
        """Gives each part's process, and its children by their places, with a name."""
        for part, pid in self._kept()["pids"].items():
            if part == "up":  # all others are its children
                continue
            process = psutil.Process(pid)
            yield part, process
            children = sorted(process.children(), key=lambda one: one.pid)
            for place, child in enumerate(children):
                yield f"{part} child {place}", child

    def address(self, name: str) -> str:
        """Returns where a store is: `redis_url` or `milvus_uri`."""
        return str(self._kept()[name])

    def _kept(self) -> Any:
        return json.loads((self.data_dir / "services.json").read_text(encoding="utf-8"))


@contextlib.contextmanager
def running_scene(folder: Path, models_dir: Path, milvus: str, **settings: str) -> Iterator[Scene]:
    """Starts a service, and stops it at the end.

    Args:
        folder: For all that it keeps.
        models_dir: The default models, built.
        milvus: `lite` or `standalone`.
        settings: More settings, by the names of their variables.
    """
    data_dir, listed = folder / "data", folder / "listed"
    listed.mkdir(parents=True)
    shutil.copytree(models_dir, data_dir / "models")
    Registry(data_dir / "models").add(
        pair_card(), picture_graph(), (text_graph(), tokenizer_file())
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (SETTINGS | settings).items():
            patch.setenv(name, value)
        patch.setenv("TWINLENS_ALLOWED_ROOTS", json.dumps([str(listed)]))
        options = ("--workers", str(N_BULK_PROCESSES), "--milvus", milvus)
        with running_service(data_dir, 0, *options) as service:
            # What processes open as they start: so they are soon there again.
            plan = {"models": ["phash@1"]}
            httpx.put(f"{service.url}/v1/libraries/default", json=plan).raise_for_status()
            yield Scene(service.url, data_dir, listed)
