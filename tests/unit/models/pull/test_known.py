"""Models that are known by name, and the page that lists them."""

from __future__ import annotations

import re

from support.paths import ROOT

from twinlens.models.card import check_name
from twinlens.models.pull.known import KNOWN_MODELS


def test_the_page_of_models_lists_what_is_known() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| (\S+/\S+) \|.*\| (\S+) \|$", page, re.MULTILINE)
    known = [(name, one.repository, one.licence) for name, one in KNOWN_MODELS.items()]
    assert rows == known


def test_models_can_be_called_as_they_are_known() -> None:
    assert [check_name(name) for name in KNOWN_MODELS] == list(KNOWN_MODELS)
