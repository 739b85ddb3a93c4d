"""Tests that hold of each Milvus there is here."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from pymilvus import MilvusClient
from support.servers import needs_standalone

if TYPE_CHECKING:
    from collections.abc import Iterator


# For `params` of a fixture: fixtures' names of the servers there are here.
EVERY_MILVUS = (
    pytest.param("lite_uri", id="lite"),
    pytest.param("standalone_uri", id="standalone", marks=needs_standalone),
)
on_every_milvus = pytest.mark.parametrize("milvus_uri", EVERY_MILVUS, indirect=True)


@contextlib.contextmanager
def tidied(uri: str, clients: dict[str, MilvusClient], kept: set[str]) -> Iterator[str]:
    """Drops the collections that were made meanwhile, but for those that are kept.

    Each takes memory of Milvus Lite, and processor time of every tick of the real server.
    """
    if uri not in clients:
        # Without pings: for those of an idle client, Milvus Lite ends its connection.
        clients[uri] = MilvusClient(uri, grpc_options={"grpc.keepalive_time_ms": 2**31 - 1})
    client = clients[uri]
    before = set(client.list_collections())
    yield uri
    for one in set(client.list_collections()) - before - kept:
        client.drop_collection(one)
