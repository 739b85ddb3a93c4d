"""What `twinlens up` says once it is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from twinlens.cli.service import up
from twinlens.shared.libraries import new_library

if TYPE_CHECKING:
    from support.stand_in import StandIn

    from twinlens.shared.settings import Settings


def test_what_libraries_lack_is_said_though_requests_need_a_key(
    settings: Settings, worker: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.keys_dir.mkdir()
    worker.serve("lite0")
    worker.catalog.ensure_library(new_library("art", ["lite0@1", "vgg@2"]))
    up._announce(settings)
    said = capsys.readouterr()
    assert said.out == "ready http://127.0.0.1:8000\n"
    [line] = said.err.splitlines()
    assert "library art is neither searched nor filled: no worker has vgg@2;" in line


def test_where_redis_is_away_it_is_ready_all_the_same(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    up._announce(settings.model_copy(update={"redis_url": "redis://127.0.0.1:9/0"}))
    assert capsys.readouterr().err == ""
