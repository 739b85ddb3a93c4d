"""Tests that hold of each Milvus there is here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.servers import needs_standalone

if TYPE_CHECKING:
    pass


# For `params` of a fixture: fixtures' names of the servers there are here.
EVERY_MILVUS = (
    pytest.param("lite_uri", id="lite"),
    pytest.param("standalone_uri", id="standalone", marks=needs_standalone),
)
on_every_milvus = pytest.mark.parametrize("milvus_uri", EVERY_MILVUS, indirect=True)
