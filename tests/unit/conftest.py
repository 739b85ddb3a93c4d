"""All models that are shipped, built once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from twinlens.models.registry import ensure_models


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("built")
    ensure_models(directory)
    return directory


@pytest.fixture
def models(built: Path, tmp_path: Path) -> Path:
    """A directory of a test's own, with all of them."""
    return Path(shutil.copytree(built, tmp_path / "models"))
