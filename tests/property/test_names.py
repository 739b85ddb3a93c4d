"""Cleaned names and texts can be shown anywhere."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from twinlens.shared.names import MAX_NAME_CHARS, clean_name, clean_text

# Surrogates, too: what the bytes of a name become that are not UTF-8.
texts = st.text(st.characters() | st.sampled_from("/\\.\u202e\u2066\udce9\x1b\n"))


def assert_printable(text: str) -> None:
    assert not {unicodedata.category(letter) for letter in text} & {"Cc", "Cs", "Zl", "Zp"}
    assert not {unicodedata.bidirectional(letter) for letter in text} & {
        *("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    }
    text.encode()


@given(texts)
def test_a_cleaned_text_is_printable(text: str) -> None:
    cleaned = clean_text(text)
    assert_printable(cleaned)
    assert clean_text(cleaned) == cleaned
    assert len(cleaned) <= len(text)


@given(texts)
def test_a_cleaned_name_is_short_printable_and_leads_nowhere(name: str) -> None:
    cleaned = clean_name(name)
    assert_printable(cleaned)
    assert len(cleaned) <= MAX_NAME_CHARS
    assert "\\" not in cleaned
    assert not set(cleaned.split("/")) & {".", ".."}
    assert not cleaned.startswith("/")
    assert not cleaned.endswith("/")
    assert "//" not in cleaned
    assert clean_name(cleaned) == cleaned


@given(
    st.lists(
        st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1).filter(
            lambda part: not set(part) & set("/\\") and part not in (".", "..")
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_plain_name_keeps_its_folders(parts: list[str]) -> None:
    name = "/".join(parts)
    if len(name) <= MAX_NAME_CHARS:
        assert clean_name(name) == name
    else:
        assert parts[-1].startswith(clean_name(name)) or name.endswith("/" + clean_name(name))
