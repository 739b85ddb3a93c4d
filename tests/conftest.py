"""A whole service, as `twinlens up` runs it, for all end-to-end tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from twinlens.cli.background import Running, running_service

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_service(tmp_path_factory.mktemp("service")) as found:
        yield found
