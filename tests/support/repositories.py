"""Folders as repositories have them: tiny networks, with the files that say how they are used."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

DIMENSION = 4
PATCH_PX = 8
WORDS = ("red", "green", "blue", "a", "photo", "of")
CLIP_PIXELS: dict[str, Any] = {
    "crop_size": {"height": 32, "width": 32},
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": {"shortest_edge": 32},
}
SIGLIP_PIXELS: dict[str, Any] = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 32, "width": 32},
}
_FREE = ["batch_size", "num_channels", "height", "width"]
_RNG = np.random.default_rng(0)
PATCHES = _RNG.normal(0, 0.1, (DIMENSION, 3, PATCH_PX, PATCH_PX)).astype(np.float32)
TABLE = _RNG.normal(0, 1, (16, DIMENSION)).astype(np.float32)


def clip(folder: Path, pixels: Mapping[str, Any] = CLIP_PIXELS) -> Path:
    """Two towers with their projections, and a tokenizer with a first and a last token."""
    save(folder / "onnx/vision_model.onnx", vision_graph(("last_hidden_state", "image_embeds")))
    save(folder / "onnx/text_model.onnx", text_graph(("last_hidden_state", "text_embeds")))
    text = {"max_position_embeddings": 77}
    write(folder / "config.json", {"model_type": "clip", "text_config": text})
    write(folder / "preprocessor_config.json", pixels)
    tokenizer_files(folder, "CLIPTokenizer", model_max_length=77)
    return folder


def whole_clip(folder: Path) -> Path:
    """Both towers in one graph."""
    clip(folder)
    for path in (folder / "onnx").iterdir():
        path.unlink()
    vision, text = vision_graph(("image_embeds",)), text_graph(("text_embeds",))
    save(folder / "onnx/model.onnx", onnx.compose.merge_models(vision, text, io_map=[]))
    return folder


def siglip(folder: Path) -> Path:
    """Two towers without projections; no mask: what fills a text up counts."""
    save(folder / "onnx/vision_model.onnx", vision_graph(("last_hidden_state", "pooler_output")))
    save(
        folder / "onnx/text_model.onnx", text_graph(("last_hidden_state", "pooler_output"), mask="")
    )
    text = {"model_type": "siglip_text_model", "max_position_embeddings": 12}
    write(folder / "config.json", {"model_type": "siglip", "text_config": text})
    write(folder / "preprocessor_config.json", SIGLIP_PIXELS)
    flags = {"add_bos_token": False, "add_eos_token": True, "model_max_length": int(1e30)}
    tokenizer_files(folder, "GemmaTokenizer", **flags)
    return folder


def dinov2(folder: Path) -> Path:
    """Pictures alone, as tokens."""
    save(folder / "onnx/model.onnx", vision_graph(("last_hidden_state",)))
    write(folder / "config.json", {"model_type": "dinov2"})
    pixels = CLIP_PIXELS | {"image_processor_type": "BitImageProcessor"}
    write(folder / "preprocessor_config.json", pixels | {"size": {"shortest_edge": 36}})
    return folder


def sentence_transformers(folder: Path) -> Path:
    """Pictures alone, as tokens, and how they are pooled."""
    dinov2(folder)
    write(folder / "config.json", {"model_type": "unheard_of"})
    write(folder / "1_Pooling/config.json", {"pooling_mode_mean_tokens": True})
    return folder


def fastembed(folder: Path) -> Path:
    """A ConvNext's preprocessing, in the older form, and a graph with one output and no name."""
    save(folder / "model.onnx", vision_graph(("495",)))
    write(folder / "config.json", {})
    pixels = {
        "crop_pct": 0.875,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "ConvNextFeatureExtractor",
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "size": {"shortest_edge": 32},
    }
    write(folder / "preprocessor_config.json", pixels)
    return folder


def immich(folder: Path, *, takes_bytes: bool = False) -> Path:
    """Immich's layout; its newest graphs take bytes, [N, height, width, 3], and do the rest."""
    graph = vision_graph(("embedding",), image="image", shape=["batch", 3, 32, 32])
    save(folder / "visual/model.onnx", _of_bytes(graph) if takes_bytes else graph)
    text = text_graph(("embedding",), ids="text", mask="", dtype=TensorProto.INT32, n_tokens=12)
    save(folder / "textual/model.onnx", text)
    pixels: dict[str, Any] = {
        "size": [32, 32],
        "mode": "RGB",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    pixels |= {"interpolation": "bicubic", "resize_mode": "squash", "fill_color": 0}
    write(folder / "visual/preprocess_cfg.json", pixels)
    cleaning = {"clean": "canonicalize"}
    text_cfg = {"context_length": 12, "vocab_size": 16, "tokenizer_kwargs": cleaning}
    write(folder / "config.json", {"embed_dim": DIMENSION, "text_cfg": text_cfg})
    tokenizer_files(folder / "textual", "CLIPTokenizer")
    return folder


def vision_graph(
    outputs: Iterable[str],
    *,
    image: str = "pixel_values",
    shape: Iterable[Any] = _FREE,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A network of patches: tokens, the first of them, or the mean of all under any other name."""
    nodes = [
        _node("Conv", f"{image} patches", "maps", strides=[PATCH_PX, PATCH_PX]),
        _node("Reshape", "maps rows", "row_tokens"),
        _node("Transpose", "row_tokens", "tokens", perm=[0, 2, 1]),
        _node("ReduceMean", "tokens", "mean", axes=[1], keepdims=0),
    ]
    weights: dict[str, NDArray[Any]] = {
        "patches": PATCHES.astype(helper.tensor_dtype_to_np_dtype(dtype)),
        "rows": np.array([0, DIMENSION, -1], np.int64),
    }
    values = []
    for name in outputs:
        is_tokens = name == "last_hidden_state"
        nodes.append(_node("Identity", "tokens" if is_tokens else "mean", name))
        dims: list[Any] = (
            ["batch_size", "tokens", DIMENSION] if is_tokens else ["batch_size", DIMENSION]
        )
        values.append(helper.make_tensor_value_info(name, dtype, dims))
    taken = [helper.make_tensor_value_info(image, dtype, [*shape])]
    return _model("vision", nodes, taken, values, weights)


def text_graph(
    outputs: Iterable[str],
    *,
    ids: str = "input_ids",
    mask: str = "attention_mask",
    dtype: int = TensorProto.INT64,
    n_tokens: int | None = None,
) -> onnx.ModelProto:
    """A table of words, and the sum of a text's; each place counts otherwise than the next."""
    shape: list[Any] = ["batch", n_tokens or "sequence"]
    names = [ids, mask] if mask else [ids]
    nodes = [
        _node("Gather", f"table {ids}", "words"),
        _node("CumSum", "words one", "summed"),
        _node("ReduceSum", "summed one", "total", keepdims=0),
    ]
    if mask:
        nodes[1:] = [
            _node("Cast", mask, "mask", to=TensorProto.FLOAT),
            _node("Unsqueeze", "mask two", "wide"),
            _node("Mul", "words wide", "kept"),
            _node("ReduceSum", "kept one", "total", keepdims=0),
        ]
    weights: dict[str, NDArray[Any]] = {
        "table": TABLE,
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
    }
    values = []
    for name in outputs:
        is_tokens = name == "last_hidden_state"
        nodes.append(_node("Identity", "words" if is_tokens else "total", name))
        dims: list[Any] = [*shape, DIMENSION] if is_tokens else ["batch", DIMENSION]
        values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    taken = [helper.make_tensor_value_info(name, dtype, shape) for name in names]
    return _model("text", nodes, taken, values, weights)


def tokenizer_files(folder: Path, kind: str, **said: Any) -> None:
    """A tokenizer of whole words; `<pad>` is what texts are filled up with."""
    tokens = ("<pad>", "<eos>", "<bos>", "<unk>", *WORDS)
    tokenizer = Tokenizer(
        models.WordLevel({token: n for n, token in enumerate(tokens)}, unk_token="<unk>")
    )
    tokenizer.add_special_tokens([*tokens[:4]])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind == "CLIPTokenizer":
        tokenizer.normalizer = normalizers.Lowercase()
    # Gemma's own, which the flags of SigLIP's configuration change.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>" if kind == "CLIPTokenizer" else "<bos> $A",
        special_tokens=[("<bos>", 2), ("<eos>", 1)],
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": {"content": "<eos>"}}
    write(folder / "special_tokens_map.json", special | {"unk_token": "<unk>"})
    config = {"tokenizer_class": kind, "pad_token": "<pad>", "bos_token": "<bos>"}
    write(folder / "tokenizer_config.json", config | {"eos_token": "<eos>", **said})


def save(path: Path, graph: onnx.ModelProto, *, beside: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(
        graph,
        path,
        save_as_external_data=beside is not None,
        location=beside,
        size_threshold=0,
    )


def save_int8(path: Path, source: Path) -> None:
    """As transformers.js quantises: scales are of all numbers of a batch."""
    quantize_dynamic(source, path)


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _of_bytes(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Puts the arithmetic on pixels before a graph: bytes, [N, height, width, 3], go in."""
    before = [
        _node("Transpose", "bytes", "turned", perm=[0, 3, 1, 2]),
        _node("Cast", "turned", "floats", to=TensorProto.FLOAT),
        _node("Sub", "floats middle", "centred"),
        _node("Div", "centred middle", "image"),
    ]
    nodes = [*before, *graph.graph.node]
    del graph.graph.node[:], graph.graph.input[:]
    graph.graph.node.extend(nodes)
    graph.graph.initializer.append(numpy_helper.from_array(np.array(127.5, np.float32), "middle"))
    taken = helper.make_tensor_value_info("bytes", TensorProto.UINT8, ["batch", 32, 32, 3])
    graph.graph.input.append(taken)
    return graph


def _node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: Mapping[str, NDArray[Any]],
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(value, weight) for weight, value in weights.items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
