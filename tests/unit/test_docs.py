"""The reference names every setting and every error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.paths import ROOT

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
