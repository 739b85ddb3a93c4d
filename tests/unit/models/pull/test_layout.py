"""Which files of a repository are a model."""

from __future__ import annotations

import pytest

from twinlens.models.pull.layout import files_beside, find_files
from twinlens.shared.errors import ModelError

CLIP = [
    "README.md",
    "config.json",
    "onnx/model.onnx",
    "onnx/text_model.onnx",
    "onnx/text_model_quantized.onnx",
    "onnx/vision_model.onnx",
    "onnx/vision_model_fp16.onnx",
    "onnx/vision_model_quantized.onnx",
    "preprocessor_config.json",
    "pytorch_model.bin",
    "tokenizer.json",
    "vocab.json",
]
IMMICH = [
    "config.json",
    "textual/model.onnx",
    "textual/tokenizer.json",
    "textual/tokenizer_config.json",
    "visual/fp16/model.armnn",
    "visual/model.onnx",
    "visual/preprocess_cfg.json",
]


def test_the_towers_of_a_pair_are_taken_and_no_more() -> None:
    files = find_files(CLIP, "fp32", is_asked=False)
    assert files.names == [
        "onnx/vision_model.onnx",
        "onnx/text_model.onnx",
        "preprocessor_config.json",
        "tokenizer.json",
        "config.json",
        "README.md",
    ]


@pytest.mark.parametrize(
    ("dtype", "is_asked", "vision", "text"),
    [
        ("int8", True, "vision_model_quantized", "text_model_quantized"),
        # Words are not worth a refusal: the other weights will do.
        ("fp16", True, "vision_model_fp16", "text_model"),
        ("fp16", False, "vision_model_fp16", "text_model"),
        # Nobody asked, so the others will do.
        ("q4", False, "vision_model", "text_model"),
    ],
)
def test_weights_are_chosen(dtype: str, is_asked: bool, vision: str, text: str) -> None:
    files = find_files(CLIP, dtype, is_asked=is_asked)
    assert files.graphs == [f"onnx/{vision}.onnx", f"onnx/{text}.onnx"]


def test_weights_that_are_not_there_are_refused_if_they_were_asked_for() -> None:
    with pytest.raises(ModelError, match=r"with weights of q4\. Pass --dtype fp32 or fp16 or int8"):
        find_files(CLIP, "q4", is_asked=True)


def test_words_have_float32_unless_it_was_asked_for_other() -> None:
    there = [*CLIP, "onnx/text_model_fp16.onnx"]
    texts = [find_files(there, "fp16", is_asked=is_asked).text for is_asked in (True, False)]
    assert texts == ["onnx/text_model_fp16.onnx", "onnx/text_model.onnx"]


def test_immichs_folders_are_known() -> None:
    files = find_files(IMMICH, "fp32", is_asked=False)
    assert files.is_immich
    assert files.graphs == ["visual/model.onnx", "textual/model.onnx"]
    assert files.tokenizer == "textual/tokenizer.json"


def test_a_single_graph_needs_no_folder() -> None:
    there = ["config.json", "model.onnx", "preprocessor_config.json"]
    files = find_files(there, "fp32", is_asked=False)
    assert (files.vision, files.text, files.tokenizer) == ("model.onnx", None, None)


def test_weights_beside_a_graph_are_told_by_their_names() -> None:
    there = ["model.onnx", "model.onnx_data", "model.onnx_data_1", "model_fp16.onnx_data"]
    assert files_beside("model.onnx", there) == ["model.onnx_data", "model.onnx_data_1"]


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (["config.json", "pytorch_model.bin"], "only pickles (pytorch_model.bin): they can run"),
        (["model.safetensors", "config.json"], "no ONNX graph, but model.safetensors. Pass"),
        (
            ["model.safetensors", "modeling_own.py"],
            "code of its own (modeling_own.py), which is never run",
        ),
        (["notes.txt"], "no ONNX graph, but notes.txt"),
        ([], "no ONNX graph, but nothing"),
        (["a.onnx", "b.onnx", "c.onnx", "d.onnx"], "(a.onnx, b.onnx, c.onnx and 1 more)"),
        (["onnx/text_model.onnx", "tokenizer.json"], "none of the ONNX graphs there"),
        (["onnx/model.onnx"], "there is no preprocessor_config.json"),
        (["visual/model.onnx"], "there is no visual/preprocess_cfg.json"),
    ],
)
def test_what_is_no_model_is_refused(there: list[str], words: str) -> None:
    with pytest.raises(ModelError) as refused:
        find_files(there, "fp32", is_asked=False)
    assert words in str(refused.value)
