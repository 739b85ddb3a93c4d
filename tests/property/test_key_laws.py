"""No other text passes for a key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from twinlens.api.access.keyring import Keyring
from twinlens.api.access.keys import Grant, new_key

MADE = [new_key(Grant(scope="admin")) for _ in range(2)]
KEYS = [one.key for one in MADE]
FIRST, SECOND = (key.split("_") for key in KEYS)


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    folder: Path = tmp_path_factory.mktemp("keys") / "keys"
    keyring = Keyring(folder)
    for one in MADE:
        keyring.add(one.record)
    return keyring


def id_known(keyring: Keyring, text: str) -> str | None:
    record = keyring.find(text)
    return None if record is None else record.id


def _changed(key: str, place: int, letter: str) -> str:
    return key[:place] + letter + key[place + 1 :]


NEAR = st.builds(_changed, st.sampled_from(KEYS), st.integers(0, len(KEYS[0])), st.text(max_size=2))
LONG = st.text(alphabet="twinlens_0123456789abcdef", min_size=80, max_size=100)


@given(st.one_of(NEAR, LONG, st.text()))
@example("")
@example("_".join([*FIRST[:2], SECOND[2]]))
@example(KEYS[0].upper())
@example(KEYS[0] + "\n")
@example(f" {KEYS[0]}")
@example("_".join(FIRST[:2]) + "_")
@example(KEYS[0][:-1])
@example(KEYS[0] + KEYS[1])
@example(MADE[0].record.sha256)
@example(f"twinlens_{FIRST[1]}_{MADE[0].record.sha256}")
@example(f"twinlens_../{FIRST[1]}_{FIRST[2]}")
def test_nothing_but_the_key_is_the_key(keyring: Keyring, text: str) -> None:
    assert id_known(keyring, text) == (text.split("_")[1] if text in KEYS else None)


def test_the_keys_are_known(keyring: Keyring) -> None:
    assert [id_known(keyring, key) for key in KEYS] == [one.record.id for one in MADE]
