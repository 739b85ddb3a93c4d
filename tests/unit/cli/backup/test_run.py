"""Which service a backup is of, and who may restore it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from twinlens.cli.backup.run import run_restore
from twinlens.cli.errors import CommandRefused
from twinlens.cli.service.addresses import with_noted_stores
from twinlens.shared.settings import Settings


def test_the_stores_are_those_that_up_has_noted_unless_others_are_named(tmp_path: Path) -> None:
    nothing = with_noted_stores(Settings(data_dir=tmp_path))
    assert nothing.redis_url == "redis://127.0.0.1:6379/0"
    noted = {"redis_url": "unix:///r", "milvus_uri": "unix:/m", "url": "http://127.0.0.1:8000"}
    (tmp_path / "services.json").write_text(json.dumps(noted))
    both = with_noted_stores(Settings(data_dir=tmp_path))
    assert (both.redis_url, both.milvus_uri) == ("unix:///r", "unix:/m")
    one = with_noted_stores(Settings(data_dir=tmp_path, redis_url="redis://there"))
    assert (one.redis_url, one.milvus_uri) == ("redis://there", "unix:/m")
    for broken in ("[]", "{", ""):
        (tmp_path / "services.json").write_text(broken)
        assert with_noted_stores(Settings(data_dir=tmp_path)) == nothing


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone could write for others")
def test_root_does_not_write_what_the_service_could_not_read(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(CommandRefused, match="is of user 12345"):
        run_restore(Settings(data_dir=tmp_path), tmp_path, [], None)
