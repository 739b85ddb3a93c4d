"""Tokenizers as they are taken over: the ids are those of transformers' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.repositories import tokenizer_files
from tokenizers import Tokenizer

from twinlens.models.pull.words import immich_rules, shape_tokenizer, transformers_rules
from twinlens.shared.errors import ModelError

TEXTS = ("a red photo", "A RED  Photo!", "", "red, red; red", "no-one's  ", "red " * 100)
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ▁,.!'-;"
SIGLIP = {
    "model_type": "siglip",
    "text_config": {"model_type": "siglip_text_model", "max_position_embeddings": 64},
}


def gemma_parts() -> dict[str, Any]:
    """Vocabulary and merges in the form of Gemma's, which SigLIP 2 has."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{b:02X}>" for b in range(256))]
    tokens += [*LETTERS, "re", "red", "▁r", "▁red"]
    vocab = {token: n for n, token in enumerate(tokens)}
    flags = {"add_bos_token": False, "add_eos_token": True, "padding_side": "right"}
    return {"vocab": vocab, "merges": [("r", "e"), ("re", "d")], **flags}


def clip_parts() -> dict[str, Any]:
    letters = "abcdefghijklmnopqrstuvwxyz,.!'-;"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{one}</w>" for one in letters)]
    tokens += ["re", "red</w>"]
    vocab = {token: n for n, token in enumerate(tokens)}
    return {"vocab": vocab, "merges": [("r", "e"), ("re", "d</w>")], "model_max_length": 77}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def shaped(folder: Path, config: dict[str, Any]) -> Tokenizer:
    rules = transformers_rules(config, read(folder / "tokenizer_config.json"), {})
    content = shape_tokenizer("tokenizer.json", (folder / "tokenizer.json").read_bytes(), rules)
    return Tokenizer.from_buffer(content)


@pytest.mark.parametrize("text", TEXTS)
def test_words_of_clip_are_those_of_transformers(text: str, tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    theirs = CLIPTokenizer(**clip_parts())
    theirs.save_pretrained(tmp_path)
    ours = shaped(tmp_path, {"model_type": "clip"})
    expected = theirs(text, truncation=True, max_length=77)
    assert ours.encode(text).ids == expected["input_ids"]


@pytest.mark.parametrize("text", TEXTS)
def test_words_of_siglip_2_are_small_and_filled_up(text: str, tmp_path: Path) -> None:
    from transformers import GemmaTokenizer
    from transformers.models.siglip2.tokenization_siglip2 import Siglip2Tokenizer

    # Repositories name Gemma's class, which leaves letters as they are; SigLIP 2's own does not.
    GemmaTokenizer(**gemma_parts()).save_pretrained(tmp_path)
    ours = shaped(tmp_path, SIGLIP)
    filled = {"padding": "max_length", "max_length": 64, "truncation": True}
    expected = Siglip2Tokenizer(**gemma_parts())(text, **filled)
    assert ours.encode(text).ids == expected["input_ids"]
    assert len(ours.encode(text).ids) == 64


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, [2, 4]),
        ({"add_bos_token": False, "add_eos_token": True}, [4, 1]),
        ({"add_bos_token": True, "add_eos_token": True}, [2, 4, 1]),
        ({"add_bos_token": False, "add_eos_token": False}, [4]),
    ],
)
def test_flags_say_what_stands_before_and_after_a_text(
    flags: dict[str, bool], expected: list[int], tmp_path: Path
) -> None:
    # As files of transformers 4 have them: tokenizer.json has Gemma's own, `<bos>` alone.
    tokenizer_files(tmp_path, "GemmaTokenizer", **flags)
    assert shaped(tmp_path, {"model_type": "other"}).encode("red").ids == expected


def test_immichs_words_are_cleaned_and_filled_up(tmp_path: Path) -> None:
    tokenizer_files(tmp_path, "other")
    config: Any = {"text_cfg": {"context_length": 6, "tokenizer_kwargs": {"clean": "canonicalize"}}}
    rules = immich_rules(config, read(tmp_path / "tokenizer_config.json"))
    content = (tmp_path / "tokenizer.json").read_bytes()
    ours = Tokenizer.from_buffer(shape_tokenizer("tokenizer.json", content, rules))
    assert ours.encode("  A Red,\nphoto! ").ids == [2, 7, 4, 8, 0, 0]
    # Without it, letters and marks count.
    rules = immich_rules({"text_cfg": {"context_length": 6}}, {"pad_token": "<pad>"})
    ours = Tokenizer.from_buffer(shape_tokenizer("tokenizer.json", content, rules))
    assert ours.encode("A Red").ids == [2, 3, 3, 0, 0, 0]


def test_texts_are_filled_up_on_the_side_that_is_said(tmp_path: Path) -> None:
    tokenizer_files(tmp_path, "other", padding_side="left")
    assert shaped(tmp_path, SIGLIP).encode("red").ids == [0] * 62 + [2, 4]


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    rules = transformers_rules({}, {}, {})
    with pytest.raises(ModelError, match=r"is no tokenizer of the tokenizers library .*--no-words"):
        shape_tokenizer("tokenizer.json", b'{"version": "1.0"}', rules)
    tokenizer_files(tmp_path, "other", pad_token="[NONE]")
    with pytest.raises(ModelError, match=r"no token '\[NONE\]'"):
        shaped(tmp_path, SIGLIP)
