"""The indexes of Milvus: their parameters, and which of them a server has.

All is checked here, before a server sees it. A server accepts parameters with which it never builds
the index, and searches row by row for ever; and `ef` of 2³¹ - 1 makes it ask for all memory.
docs/decisions/0013-indexes.md has the measurements.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field

from twinlens.shared.errors import FieldError, pointer
from twinlens.shared.libraries import Index, IndexType

if TYPE_CHECKING:
    from collections.abc import Mapping

# No server returns more than 16,384 hits, and there are never fewer candidates than hits.
MAX_CANDIDATES = 32_768
# A full segment of 1,280 numbers a row has 22,000 rows: 170 in a list.
N_LISTS, N_PROBES = 128, 16
# How many numbers of a vector IVF_PQ turns into one byte, where the dimension allows it.
NUMBERS_A_BYTE = 8

WANTED_RECALL = 0.98
# `ef` by the recall@10 that is wanted, with a margin, since collections differ: HNSW with default
# parameters reached 0.996 with 16 and 0.9996 with 64 (`python -m benchmarks.recall`).
EF_BY_RECALL = {0.9: 16, 0.95: 32, 0.98: 64, 0.99: 128, 0.999: 512}


class Range(NamedTuple):
    """What a parameter may be, and what it is by default."""

    low: int
    high: int
    default: int


_LISTS = {"nlist": Range(1, 65_536, N_LISTS)}
_PROBES = {"nprobe": Range(1, 65_536, N_PROBES)}

# With M below 4, a server builds graphs that find nothing, or no graph at all.
BUILD: dict[IndexType, dict[str, Range]] = {
    "AUTO": {},
    "FLAT": {},
    "HNSW": {"M": Range(4, 64, 16), "efConstruction": Range(16, 4096, 200)},
    "IVF_FLAT": _LISTS,
    "IVF_SQ8": _LISTS,
    "IVF_PQ": _LISTS | {"m": Range(1, 32_768, 0), "nbits": Range(1, 16, 8)},
    "SCANN": _LISTS,
    "DISKANN": {},
}
SEARCH: dict[IndexType, dict[str, Range]] = {
    "AUTO": {},
    "FLAT": {},
    "HNSW": {"ef": Range(1, MAX_CANDIDATES, EF_BY_RECALL[WANTED_RECALL])},
    "IVF_FLAT": _PROBES,
    "IVF_SQ8": _PROBES,
    "IVF_PQ": _PROBES,
    "SCANN": _PROBES | {"reorder_k": Range(1, MAX_CANDIDATES, 256)},
    "DISKANN": {"search_list": Range(1, MAX_CANDIDATES, 128)},
}
# How many candidates a search looks at: at least as many as it should find.
CANDIDATES = ("ef", "reorder_k", "search_list")

# Types that compare all vectors, and types whose distances are not those of the vectors themselves.
EXACT: frozenset[IndexType] = frozenset({"FLAT"})
COMPRESSED: frozenset[IndexType] = frozenset({"IVF_SQ8", "IVF_PQ"})


class Server(BaseModel):
    """What the connected Milvus is, and which indexes of float vectors it has."""

    model_config = ConfigDict(frozen=True)

    title: str
    is_lite: bool = False
    index_types: frozenset[IndexType]
    float16_types: frozenset[IndexType] = Field(description="those over FLOAT16 vectors")

    def types_of(self, index: Index) -> frozenset[IndexType]:
        """Returns the types that it has for an index's kind of vectors."""
        return self.float16_types if index.vector == "FLOAT16" else self.index_types


def server_of(version: str | None) -> Server:
    """Returns what a server of a version has.

    Args:
        version: As the server reports it; None for Milvus Lite, which does not.
    """
    every = frozenset[IndexType](get_args(IndexType))
    if version is None:
        return Server(
            title="Milvus Lite",
            is_lite=True,
            index_types=frozenset({"AUTO", "FLAT", "IVF_FLAT"}),
            float16_types=frozenset({"AUTO", "FLAT"}),
        )
    # The wheel's build is not Milvus Lite, but has no DISKANN.
    types = every - {"DISKANN"} if version.endswith("-lite") else every
    numbers = re.search(r"(\d+)\.(\d+)", version)
    is_old = numbers is not None and (int(numbers[1]), int(numbers[2])) < (2, 4)
    # For FLOAT16, 2.3 builds no index, and now and then misses rows that it compares one by one.
    float16_types = frozenset[IndexType]() if is_old else types
    return Server(title=f"Milvus {version}", index_types=types, float16_types=float16_types)


def check_index(
    index: Index, dimensions: Mapping[str, int], server: Server | None
) -> list[FieldError]:
    """Returns what is wrong with an index, by place in a library's plan.

    Args:
        index: What is wanted.
        dimensions: How many numbers a vector has, for each float model of the library.
        server: The connected server, if it is known.
    """
    errors = list(filter(None, (_type_error(index, server), _recall_error(index))))
    ranges = BUILD[index.type] | SEARCH[index.type]
    for name, value in index.params.items():
        if name not in ranges:
            has = ", ".join(ranges) or "none"
            errors.append(_param_error(name, f"{index.type} has no such parameter; it has: {has}."))
        elif not ranges[name].low <= value <= ranges[name].high:
            low, high, _ = ranges[name]
            errors.append(_param_error(name, f"It must be from {low} to {high}."))
    return errors or _relation_errors(index, dimensions)


def resolve(index: Index, server: Server) -> Index:
    """Returns the index with a type that the server has in place of AUTO."""
    if index.type != "AUTO":
        return index
    kind: IndexType = "HNSW" if "HNSW" in server.types_of(index) else "FLAT"
    # FLAT finds everything, whatever recall is wanted.
    recall = index.recall if kind == "HNSW" else None
    return index.model_copy(update={"type": kind, "recall": recall})


def layout_of(index: Index) -> Index:
    """Returns what decides how vectors are stored; the rest can differ from search to search."""
    built = {name: index.params[name] for name in BUILD[index.type] if name in index.params}
    return Index(type=index.type, params=built, vector=index.vector)


def build_params(index: Index, dimension: int) -> dict[str, int]:
    """Returns all parameters with which an index is built.

    >>> build_params(Index(type="IVF_PQ", params={"nlist": 64}), 100)
    {'nlist': 64, 'm': 10, 'nbits': 8}
    """
    defaults = {name: one.default for name, one in BUILD[index.type].items()}
    if "m" in defaults:
        most = max(dimension // NUMBERS_A_BYTE, 1)
        defaults["m"] = max(m for m in range(1, most + 1) if dimension % m == 0)
    return {name: index.params.get(name, default) for name, default in defaults.items()}


def search_params(index: Index, limit: int) -> dict[str, int]:
    """Returns all parameters of a search in an index, for this many hits.

    >>> search_params(Index(type="HNSW", recall=0.95), 10)
    {'ef': 32}
    >>> search_params(Index(type="HNSW", recall=0.95), 500)
    {'ef': 500}
    """
    params = {name: index.params.get(name, one.default) for name, one in SEARCH[index.type].items()}
    if "ef" in params and index.recall is not None:
        params["ef"] = min(ef for recall, ef in EF_BY_RECALL.items() if recall >= index.recall)
    if "nprobe" in params:
        params["nprobe"] = min(params["nprobe"], index.params.get("nlist", N_LISTS))
    return {
        name: max(value, limit) if name in CANDIDATES else value for name, value in params.items()
    }


def _type_error(index: Index, server: Server | None) -> FieldError | None:
    if server is None or index.type in (types := server.types_of(index)):
        return None
    if not types:
        message = f"{server.title} has no reliable {index.vector} vectors; use FLOAT32."
        return FieldError(location=pointer("index", "vector"), message=message)
    there = ", ".join(name for name in get_args(IndexType) if name in types)
    return FieldError(
        location=pointer("index", "type"),
        message=f"{server.title} has no {index.type} of {index.vector} vectors; it has: {there}.",
    )


def _recall_error(index: Index) -> FieldError | None:
    if index.recall is None or index.type == "AUTO":
        return None
    if index.type != "HNSW":
        message = f"{index.type} has no such setting; only HNSW has."
    elif "ef" in index.params:
        message = "It sets ef; give only one of the two."
    else:
        return None
    return FieldError(location=pointer("index", "recall"), message=message)


def _relation_errors(index: Index, dimensions: Mapping[str, int]) -> list[FieldError]:
    errors = []
    if index.params.get("nprobe", 1) > (nlist := index.params.get("nlist", N_LISTS)):
        errors.append(_param_error("nprobe", f"It must be at most nlist, {nlist}."))
    if index.params.get("efConstruction", MAX_CANDIDATES) < index.params.get("M", 0):
        errors.append(_param_error("efConstruction", "It must be at least M."))
    for model, dimension in dimensions.items():
        if index.type == "IVF_PQ" and dimension % index.params.get("m", 1):
            message = f"It must divide {dimension}, the dimension of {model}."
            errors.append(_param_error("m", message))
        if index.type == "SCANN" and dimension % 2:
            message = f"SCANN needs an even number of dimensions; {model} has {dimension}."
            errors.append(FieldError(location=pointer("index", "type"), message=message))
    return errors


def _param_error(name: str, message: str) -> FieldError:
    return FieldError(location=pointer("index", "params", name), message=message)
