"""How often properties are tried, the models, and a whole service, as `twinlens up` runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from twinlens.cli.service.background import Running, running_service
from twinlens.models.cores import n_cores
from twinlens.models.registry import DEFAULT_MODELS, ensure_models

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The same examples in each run, and no judgement by the clock: a test that passed fails only for a
# change. `make fuzz` looks for new ones; what it finds becomes an `@example`.
_COMMON: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("fixed", derandomize=True, max_examples=80, **_COMMON)
settings.register_profile("fuzz", max_examples=2000, print_blob=True, **_COMMON)
settings.load_profile("fixed")


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: tests wait for servers a quarter of their time."""
    return n_cores() + 1


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default models, built once: that takes seconds."""
    folder = tmp_path_factory.mktemp("models")
    ensure_models(folder, DEFAULT_MODELS)
    return folder


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_service(tmp_path_factory.mktemp("service")) as running:
        yield running
