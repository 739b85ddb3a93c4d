"""The reference names every setting and every error."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from support.paths import PACKAGES, ROOT

from twinlens.shared.errors import TwinlensError
from twinlens.shared.settings import Settings

REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")


def _tree(kind: type[TwinlensError]) -> Iterator[type[TwinlensError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _tree(child)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_row(name: str) -> None:
    assert f"| `TWINLENS_{name.upper()}` |" in REFERENCE


@pytest.mark.parametrize("kind", {k.code: k for k in _tree(TwinlensError)}.values())
def test_every_error_has_a_row_with_its_status(kind: type[TwinlensError]) -> None:
    assert f"| `{kind.code}` | {kind.status} | {kind.title} |" in REFERENCE


# What is written for people: docs, and code with its comments.
WRITTEN = [
    path
    for folder in (*PACKAGES, "benchmarks", "docs", "tests", ".")
    for pattern in ("*.md", "*.py", "*.lua", "*.toml", "*.yml")
    for path in sorted((ROOT / folder).glob(pattern if folder == "." else f"**/{pattern}"))
]


def test_every_link_leads_somewhere() -> None:
    dead = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in WRITTEN
        if path.suffix == ".md"
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert dead == []


def test_every_file_that_is_named_is_there() -> None:
    named = re.compile(r"(?<![\w/.<}*-])((?:[a-z_]+/)+[\w-]+\.(?:py|lua|md|toml|yml|onnx))\b")
    # Of other projects, files may be named as well.
    folders = {folder.name for path in WRITTEN for folder in path.relative_to(ROOT).parents}
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in WRITTEN
        for name in named.findall(path.read_text(encoding="utf-8"))
        if name.partition("/")[0] in folders
        # By its place in the project, or beside the file or one of its packages.
        if not any((folder / name).exists() for folder in (path.parent, *path.parents))
        and not list(ROOT.glob(f"*/{name}"))
    }
    assert missing == set()


def test_a_commit_is_checked_by_what_make_check_runs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    target = makefile[makefile.index("check: ") :].partition("\n\n")[0]
    checks = re.findall(r"^\t\$\(BIN\)/(.+)$", target, re.MULTILINE)
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert len(checks) > 5
    assert re.findall(r"entry: \.venv/bin/(.+)$", hooks, re.MULTILINE) == checks
