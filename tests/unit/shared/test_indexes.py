"""Indexes: what is refused, and where; what a server is told."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinlens.shared.indexes import (
    BUILD,
    CANDIDATES,
    EF_BY_RECALL,
    SEARCH,
    build_params,
    check_index,
    layout_of,
    resolve,
    search_params,
    server_of,
)
from twinlens.shared.libraries import Index, IndexType

LITE, WHEEL, LATER = server_of(None), server_of("v2.3.5-lite"), server_of("v2.5.4")
TYPES = st.sampled_from(get_args(IndexType))


def locations(index: Index, dimension: int = 1280, server: Any = None) -> list[str]:
    return [one.location for one in check_index(index, {"lite0@1": dimension}, server)]


@pytest.mark.parametrize(
    ("fields", "location"),
    [
        ({"type": "AUTO", "params": {"M": 16}}, "/index/params/M"),
        ({"type": "FLAT", "params": {"nlist": 16}}, "/index/params/nlist"),
        ({"type": "HNSW", "params": {"m": 16}}, "/index/params/m"),
        ({"type": "HNSW", "params": {"M": 3}}, "/index/params/M"),
        ({"type": "HNSW", "params": {"M": 65}}, "/index/params/M"),
        ({"type": "HNSW", "params": {"efConstruction": 10}}, "/index/params/efConstruction"),
        ({"type": "HNSW", "params": {"M": 64, "efConstruction": 63}}, "efConstruction"),
        ({"type": "HNSW", "params": {"ef": 0}}, "/index/params/ef"),
        ({"type": "HNSW", "params": {"ef": 2**31 - 1}}, "/index/params/ef"),
        ({"type": "HNSW", "params": {"ef": 64}, "recall": 0.9}, "/index/recall"),
        ({"type": "FLAT", "recall": 0.9}, "/index/recall"),
        ({"type": "IVF_FLAT", "params": {"nlist": 0}}, "/index/params/nlist"),
        ({"type": "IVF_FLAT", "params": {"nlist": 65_537}}, "/index/params/nlist"),
        ({"type": "IVF_SQ8", "params": {"nlist": 8, "nprobe": 9}}, "/index/params/nprobe"),
        ({"type": "IVF_SQ8", "params": {"nprobe": 129}}, "/index/params/nprobe"),
        ({"type": "IVF_PQ", "params": {"m": 0}}, "/index/params/m"),
        ({"type": "IVF_PQ", "params": {"m": 3}}, "/index/params/m"),
        ({"type": "IVF_PQ", "params": {"nbits": 0}}, "/index/params/nbits"),
        ({"type": "IVF_PQ", "params": {"nbits": 17}}, "/index/params/nbits"),
        ({"type": "SCANN", "params": {"with_raw_data": 0}}, "/index/params/with_raw_data"),
        ({"type": "SCANN", "params": {"reorder_k": 0}}, "/index/params/reorder_k"),
        ({"type": "DISKANN", "params": {"search_list": 0}}, "/index/params/search_list"),
    ],
)
def test_a_bad_parameter_is_named(fields: dict[str, Any], location: str) -> None:
    [where] = locations(Index(**fields))
    assert where.endswith(location)


def test_every_bad_parameter_is_named_at_once() -> None:
    index = Index(type="HNSW", params={"M": 0, "ef": 0, "x": 1})
    assert locations(index) == ["/index/params/M", "/index/params/ef", "/index/params/x"]


def test_a_parameter_may_suit_one_model_and_not_another() -> None:
    index = Index(type="IVF_PQ", params={"m": 160})
    [error] = check_index(index, {"lite0@1": 1280, "small@1": 48}, WHEEL)
    assert "48" in error.message
    assert "small@1" in error.message
    assert locations(Index(type="SCANN"), dimension=47) == ["/index/type"]


@pytest.mark.parametrize(
    ("server", "vector", "types"),
    [
        (LITE, "FLOAT32", {"AUTO", "FLAT", "IVF_FLAT"}),
        (LITE, "FLOAT16", {"AUTO", "FLAT"}),
        (WHEEL, "FLOAT32", set(get_args(IndexType)) - {"DISKANN"}),
        (server_of("v2.3.21"), "FLOAT32", set(get_args(IndexType))),
        (LATER, "FLOAT16", set(get_args(IndexType))),
        (server_of("main-20260101"), "FLOAT32", set(get_args(IndexType))),
    ],
)
def test_what_a_server_lacks_is_refused_with_what_it_has(
    server: Any, vector: Any, types: set[str]
) -> None:
    for name in get_args(IndexType):
        errors = check_index(Index(type=name, vector=vector), {"lite0@1": 1280}, server)
        assert [one.location for one in errors] == ([] if name in types else ["/index/type"])
        assert all("FLAT" in one.message and server.title in one.message for one in errors)


@pytest.mark.parametrize("server", [WHEEL, server_of("2.3.21")])
@pytest.mark.parametrize("name", get_args(IndexType))
def test_a_server_may_have_no_index_of_float16(server: Any, name: IndexType) -> None:
    [error] = check_index(Index(type=name, vector="FLOAT16"), {"lite0@1": 1280}, server)
    assert error.location == "/index/vector"
    assert server.title in error.message


def test_auto_is_the_best_that_a_server_has() -> None:
    assert resolve(Index(), WHEEL).type == "HNSW"
    assert resolve(Index(), LITE).type == "FLAT"
    assert resolve(Index(vector="FLOAT16"), LITE).type == "FLAT"
    assert resolve(Index(vector="FLOAT16"), LATER) == Index(type="HNSW", vector="FLOAT16")
    assert check_index(resolve(Index(recall=0.9), LITE), {}, LITE) == []
    assert resolve(Index(recall=0.9), WHEEL).recall == 0.9


def test_more_recall_takes_more_candidates() -> None:
    efs = [
        search_params(Index(type="HNSW", recall=recall), 1)["ef"]
        for recall in (0.5, 0.9, 0.91, 0.95, 0.98, 0.985, 0.999)
    ]
    assert efs == sorted(efs)
    assert efs[0] == EF_BY_RECALL[0.9]
    assert efs[-1] == EF_BY_RECALL[0.999]
    assert search_params(Index(type="HNSW"), 1) == {"ef": EF_BY_RECALL[0.98]}


def test_what_is_stored_stays_where_only_searches_change() -> None:
    before = Index(type="HNSW", params={"M": 16, "ef": 64})
    assert layout_of(before) == layout_of(Index(type="HNSW", params={"M": 16}, recall=0.9))
    assert layout_of(before) != layout_of(Index(type="HNSW", params={"M": 32}))
    assert layout_of(before) != layout_of(Index(type="IVF_FLAT"))
    assert layout_of(Index()) != layout_of(Index(vector="FLOAT16"))


@st.composite
def indexes(draw: st.DrawFn) -> Index:
    """Any index whose parameters are each in their range."""
    name = draw(TYPES)
    ranges = BUILD[name] | SEARCH[name]
    params = draw(
        st.fixed_dictionaries(
            {}, optional={key: st.integers(one.low, one.high) for key, one in ranges.items()}
        )
    )
    return Index(type=name, params=params)


@given(indexes(), st.integers(1, 4096), st.integers(1, 16_384))
def test_what_passes_gives_a_server_nothing_out_of_range(
    index: Index, dimension: int, limit: int
) -> None:
    if check_index(index, {"any@1": dimension}, None):
        return
    built, asked = build_params(index, dimension), search_params(index, limit)
    assert built.keys() == BUILD[index.type].keys()
    assert asked.keys() == SEARCH[index.type].keys()
    for name, value in (built | asked).items():
        low, high, _ = (BUILD[index.type] | SEARCH[index.type])[name]
        assert low <= value <= high
        assert value == max(index.params.get(name, value), limit if name in CANDIDATES else 0)
    assert all(asked[name] >= limit for name in CANDIDATES if name in asked)
    assert asked.get("nprobe", 0) <= built.get("nlist", 0)
    assert dimension % built.get("m", 1) == 0
