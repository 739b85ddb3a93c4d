"""A client of the running service, and where a service of a test's own keeps what it has."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clients import Client


@pytest.fixture
def data_dir(tmp_path: Path, models_dir: Path) -> Path:
    """Where a service of a test's own keeps what it has. Its models are there already."""
    shutil.copytree(models_dir, tmp_path / "data" / "models")
    return tmp_path / "data"


@pytest.fixture(scope="session")
def client(service: Any) -> Iterator[Client]:
    with Client(service.url) as api_client:
        yield api_client
