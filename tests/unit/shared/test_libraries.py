"""Libraries and their editions."""

from __future__ import annotations

from datetime import timedelta

import pytest

from twinlens.shared.errors import ModelNotFound
from twinlens.shared.libraries import (
    Edition,
    Index,
    Library,
    NextEdition,
    PreviousEdition,
    new_collection,
    new_library,
)
from twinlens.shared.messages import now

REFS = ["efficientnet-lite0@1-int8", "phash@1"]


def test_every_library_and_version_has_collections_of_its_own() -> None:
    refs = ["efficientnet-lite0@1", "efficientnet-lite0@2", "phash@1"]
    libraries = [new_library(name, refs) for name in ("a", "a-b", "a")]
    names = [name for library in libraries for name in library.collections.values()]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)


def test_the_longest_names_are_names_to_milvus() -> None:
    name = new_collection("a-" * 31 + "aa", "m-" * 31 + "mm@" + "1-" * 15 + "11")
    assert name.isidentifier()
    assert name.isascii()
    assert len(name) <= 255
    assert name.startswith("tl_a_a_")


def test_a_collection_is_named_once() -> None:
    library = new_library("a", REFS)
    again = Library.model_validate_json(library.model_dump_json())
    assert again == library
    assert set(library.collections) == set(REFS)


def library_in_change() -> Library:
    return Library(
        name="a",
        models=["now@1", "both@1"],
        metric="L2",
        collections={"now@1": "n", "both@1": "b"},
        next=NextEdition(models=["later@1"], collections={"later@1": "l"}, job_id="j"),
        previous=PreviousEdition(models=["past@1"], collections={"past@1": "p"}, until=now()),
    )


def test_new_pictures_are_embedded_for_every_edition_the_searched_one_first() -> None:
    library = library_in_change()
    assert library.editions == [library, library.next, library.previous]
    assert library.all_collections == {"n", "b", "l", "p"}
    library.next = None
    assert library.editions == [library, library.previous]
    library.previous = None
    assert library.editions == [library]
    assert library.all_collections == {"n", "b"}


def test_a_library_that_is_switched_can_be_switched_back() -> None:
    library, until = library_in_change(), now() + timedelta(hours=1)
    to = Edition(
        models=["c@1"],
        metric="IP",
        index=Index(type="FLAT"),
        weights={"c": 2.0},
        collections={"c@1": "c"},
    )
    switched = library.switched(to, kept_until=until)
    assert (switched.name, switched.next) == ("a", None)
    assert Edition(**switched.model_dump(include=set(Edition.model_fields))) == to
    assert switched.previous is not None
    assert switched.previous.until == until
    back = switched.switched(switched.previous, kept_until=until)
    fields = set(Edition.model_fields)
    assert back.model_dump(include=fields) == library.model_dump(include=fields)
    assert back.previous is not None
    assert back.previous.collections == to.collections


def test_a_change_that_is_not_worth_going_back_from_keeps_what_one_can_go_back_to() -> None:
    library = library_in_change()
    switched = library.switched(Edition(models=["now@1"], collections={"now@1": "n"}))
    assert switched.previous == library.previous
    assert switched.next is None
    assert switched.models == ["now@1"]
    assert switched.metric is None


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (None, REFS),
        ([], []),
        (["phash"], ["phash@1"]),
        (["phash@1", "efficientnet-lite0"], ["phash@1", REFS[0]]),
        (["phash", "phash@1", "phash"], ["phash@1"]),
    ],
)
def test_models_are_chosen_by_name_with_or_without_version(
    wanted: list[str] | None, chosen: list[str]
) -> None:
    assert new_library("a", REFS).choose(wanted) == chosen


@pytest.mark.parametrize("name", ["phash@2", "efficientnet", "", "efficientnet-lite0@1"])
def test_a_model_that_a_library_does_not_have_is_not_chosen(name: str) -> None:
    with pytest.raises(ModelNotFound, match=f"{name!r}; it has: efficientnet-lite0, phash"):
        new_library("a", REFS).choose(["phash", name])
    with pytest.raises(ModelNotFound, match="none yet"):
        new_library("a", []).choose([name])
