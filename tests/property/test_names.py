"""A cleaned name can be shown anywhere."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from twinlens.shared.names import MAX_NAME_CHARS, clean_name

# Surrogates, too: what the bytes of a name become that are not UTF-8.
texts = st.text(st.characters() | st.sampled_from("/\\.\u202e\u2066\udce9\x1b\n"))


@given(texts)
def test_a_cleaned_name_is_short_printable_and_leads_nowhere(name: str) -> None:
    cleaned = clean_name(name)
    assert len(cleaned) <= MAX_NAME_CHARS
    assert not {unicodedata.category(letter) for letter in cleaned} & {"Cc", "Cs", "Zl", "Zp"}
    assert not {unicodedata.bidirectional(letter) for letter in cleaned} & {
        *("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    }
    assert "\\" not in cleaned
    assert not set(cleaned.split("/")) & {".", ".."}
    assert not cleaned.startswith("/")
    assert not cleaned.endswith("/")
    assert "//" not in cleaned
    assert clean_name(cleaned) == cleaned
    cleaned.encode()


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
