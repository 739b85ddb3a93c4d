"""Backups of one service that are restored into another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from support.embedding import embed as embed_chunk
from support.places import Place
from support.servers import needs_standalone

from twinlens.cli.backup.run import embed_by
from twinlens.shared.answers import ReconcileQuery
from twinlens.shared.queue import make_celery
from twinlens.workers.backup.folder import BackupFolder, BackupWriter
from twinlens.workers.backup.restoring import Chosen, Restored, Restoring
from twinlens.workers.backup.saving import Saved, Saving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from twinlens.workers.backup.layout import Contents, SavedLibrary

ART = {
    "Été/写真 1.png": {"city": "Zürich", "tags": ["vert", "青"], "year": 2019, "ratio": 2.5},
    "b.png": {},
    "c.png": {"good": True, "tags": []},
}
PLAIN = {"red.png": {"city": "Rome"}, "blue.png": {}}
LITE = pytest.param(("lite_uri", "lite_uri"), id="lite to lite")
MOVES = (
    LITE,
    pytest.param(("lite_uri", "standalone_uri"), id="lite to standalone", marks=needs_standalone),
    pytest.param(("standalone_uri", "lite_uri"), id="standalone to lite", marks=needs_standalone),
)


class Two(NamedTuple):
    """A service that has two libraries, and one that has nothing."""

    full: Place
    empty: Place


def back_up(
    place: Place, folder: Path, on_images: Callable[[int], None] = lambda _: None, **options: Any
) -> Saved:
    writer = BackupWriter(folder, **options)
    with writer.writing():
        return Saving(place.stores, writer, on_images).save()


def contents_of(folder: Path) -> Contents:
    backup = BackupFolder(folder)
    head = backup.head()
    assert head is not None
    return backup.contents(head)


def restore(
    place: Place,
    folder: Path,
    on_images: Callable[[int], None] = lambda _: None,
    /,
    **names: str,
) -> Restored:
    """Restores all libraries, or some under these names."""
    backup = BackupFolder(folder)
    with backup.reading():
        embed = embed_by(place.settings)
        restoring = Restoring(place.stores, backup, place.settings, embed, on_images)
        by_name = {one.name: one for one in restoring.contents.libraries}
        chosen = [Chosen(by_name[name], into) for name, into in (names or _same(by_name)).items()]
        restoring.check(chosen)
        return restoring.restore(chosen)


def _same(by_name: dict[str, SavedLibrary]) -> dict[str, str]:
    return {name: name for name in by_name}


def assert_same(one: Place, other: Place, library: str, into: str = "") -> None:
    """Checks that a library is the same in both places."""
    name = into or library
    first, second = (
        place.client.get(f"/v1/libraries/{n}").json for place, n in ((one, library), (other, name))
    )
    for key in ("models", "weights", "metric", "index"):
        assert second[key] == first[key], key
    before, after = one.images(library), other.images(name)
    assert len(before) > 0
    assert after == {i: one.model_copy(update={"library": name}) for i, one in before.items()}
    for image_id in before:
        assert other.content(name, image_id) == one.content(library, image_id)
    assert other.vectors(name) == one.vectors(library)


def run_job(place: Place, job_id: str) -> None:
    """Does the work of a job that embeds what a library lacks."""
    runtime = place.runtime
    runtime.reconciling.plan(make_celery(place.settings), job_id, ReconcileQuery())
    for chunk in range(runtime.jobs.get(job_id).n_chunks):
        embed_chunk(runtime, job_id, chunk)
    assert runtime.jobs.get(job_id).status == "succeeded"


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def remove(path: Path) -> None:
    path.unlink()
