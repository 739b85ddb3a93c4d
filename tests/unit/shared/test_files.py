"""Only regular files are opened, and nothing is waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from twinlens.shared.files import open_regular


def test_a_file_is_opened_by_its_path_or_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"bytes")
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"bytes"


def test_what_may_never_end_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    kinds = {tmp_path / "pipe": "pipe", tmp_path / "link": "pipe", Path("/dev/zero"): "device"}
    for path, kind in kinds.items():
        with pytest.raises(OSError, match=f"it is a {kind}; give a file"):
            open_regular(path)


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
