"""Libraries and their editions."""

from __future__ import annotations

from twinlens.shared.libraries import Library


def test_every_library_and_version_has_collections_of_its_own() -> None:
    refs = ["efficientnet-lite0@1", "efficientnet-lite0@2", "phash@1"]
    libraries = [Library(name=name, models=refs) for name in ("a", "a-b", "a")]
    names = [name for library in libraries for name in library.collections.values()]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)
