"""Pages of a backup: where pictures come and go, all others stay as they are."""

from __future__ import annotations

from support.known_library import id_of
from support.records import image

from twinlens.shared.messages import CatalogEntry
from twinlens.workers.backup.layout import MAX_PAGE_IMAGES, split_pages

ENTRIES = [CatalogEntry(image=image(id_of(n)), added_by="j:0:0") for n in range(20_000)]


def pages_of(entries: list[CatalogEntry]) -> list[tuple[str, ...]]:
    return [tuple(one.image.id for one in page) for page in split_pages(entries)]


def test_pages_have_every_image_once_and_are_not_too_long() -> None:
    pages = pages_of(ENTRIES)
    assert [one for page in pages for one in page] == [one.image.id for one in ENTRIES]
    assert max(map(len, pages)) <= MAX_PAGE_IMAGES
    assert 10 < len(pages) < 40


def test_an_image_more_or_less_changes_few_pages() -> None:
    before = set(pages_of(ENTRIES))
    for n in range(0, len(ENTRIES), 997):
        after = pages_of(ENTRIES[:n] + ENTRIES[n + 1 :])
        assert len(set(after) - before) <= 3
