"""Commands refuse what is no regular file at once, whichever of their files it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from twinlens.cli.errors import CommandFailed
from twinlens.cli.files import read_file, read_json
from twinlens.cli.main import main

NOWHERE = ("--url", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    "words",
    [
        ("search", "{pipe}", *NOWHERE),
        ("search", "{file}", "--unlike", "{pipe}", *NOWHERE),
        ("compare", "{pipe}", "{file}", *NOWHERE),
        ("evaluate", "{pipe}", "--models", "phash", "--dir", "{models}"),
        ("models", "add", "{pipe}", "--name", "x", "--dir", "{models}"),
        ("models", "calibrate", "phash", "{pipe}", "--dir", "{models}"),
        ("compare-models", "{pipe}", "{folder}", "--models", "phash", "--dir", "{models}"),
    ],
)
def test_a_pipe_is_refused_at_once(tmp_path: Path, words: tuple[str, ...], built: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file.jpg").write_bytes(b"\xff\xd8\xff")
    places = {
        "pipe": tmp_path / "pipe",
        "file": tmp_path / "file.jpg",
        "folder": tmp_path,
        "models": built,
    }
    done = CliRunner().invoke(main, [word.format(**places) for word in words])
    assert done.exit_code == 1, done.output
    assert "pipe cannot be read: it is a pipe; give a file" in done.stderr


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="none cannot be read: No such file or directory"):
        read_file(tmp_path / "none")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_json_is_read_without_its_mark(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "a.json").write_text(mark + '{"a": "é"}', encoding=encoding)
    assert read_json(tmp_path / "a.json") == '{"a": "é"}'.encode()
