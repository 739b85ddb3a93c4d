"""Tells by their names which files of a repository make a model.

Three layouts are known:

    transformers   onnx/vision_model.onnx, onnx/text_model.onnx or one onnx/model.onnx, also of
                   sentence-transformers; preprocessor_config.json, config.json, tokenizer.json
    fastembed      the same without the folder `onnx`
    Immich         visual/model.onnx, visual/preprocess_cfg.json, textual/…, config.json
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from twinlens.shared.errors import ModelError

# What is put after a graph's name, by the kind of numbers that its weights are.
DTYPES: dict[str, tuple[str, ...]] = {
    "fp32": ("",),
    "fp16": ("_fp16",),
    "int8": ("_int8", "_quantized"),
    "uint8": ("_uint8",),
    "q4": ("_q4",),
}
_IMMICH_PROCESSOR = "visual/preprocess_cfg.json"
# The second is of transformers 5.
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_IMMICH_STEM = "visual/model"
# Of graphs of pictures, or of both, without what their weights are: the first that is there.
_STEMS = (_IMMICH_STEM, "onnx/vision_model", "vision_model", "onnx/model", "model")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_OTHER_WEIGHTS = (".safetensors", ".h5", ".msgpack", ".gguf", ".tflite", ".mlpackage")
# Small files that say how the graphs are used; any may be missing.
_TRANSFORMERS = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "modules.json",
    "1_Pooling/config.json",
    "README.md",
)
_IMMICH = ("config.json", "textual/tokenizer.json", "textual/tokenizer_config.json", "README.md")


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model, by their names in the repository.

    Attributes:
        vision: The graph of pictures, or of both.
        text: The graph of words, where it is one of its own.
        processor: What says how pictures are prepared.
        tokenizer: The tokenizer, where there is one.
        notes: Other small files that are read.
    """

    vision: str
    text: str | None
    processor: str
    tokenizer: str | None
    notes: tuple[str, ...]

    @property
    def is_immich(self) -> bool:
        """Whether it is Immich's layout."""
        return self.processor == _IMMICH_PROCESSOR

    @property
    def graphs(self) -> list[str]:
        """The graphs, whose weights may lie in more files."""
        return [self.vision, *([self.text] if self.text else [])]

    @property
    def names(self) -> list[str]:
        """All that is named here, once each."""
        tokenizer = [self.tokenizer] if self.tokenizer else []
        return [*dict.fromkeys([*self.graphs, self.processor, *tokenizer, *self.notes])]


def find_files(there: Sequence[str], preferred: str, *, is_asked: bool) -> ModelFiles:
    """Chooses the files of a model.

    Args:
        there: Names of all files of the repository.
        preferred: The kind of weights, one of DTYPES.
        is_asked: Whether the user named it; or else fp32 will do.

    Raises:
        ModelError: There is no graph of pictures, none with such weights, or nothing that says
            how pictures are prepared.
    """
    graphs = [name for name in there if name.endswith(".onnx")]
    if not graphs:
        raise ModelError(_without_onnx(there))
    by_stem = {stem: _by_dtype(stem, graphs) for stem in _STEMS}
    stem = next((stem for stem, graphs_of_it in by_stem.items() if graphs_of_it), None)
    if stem is None:
        raise ModelError(
            f"none of the ONNX graphs there ({_some(graphs)}) has a name that says it is of "
            "pictures, such as onnx/vision_model.onnx or model.onnx. Fetch the file and pass it "
            "to `twinlens models add`"
        )
    dtypes = [preferred] if is_asked else [preferred, "fp32"]
    vision = _first(by_stem[stem], dtypes)
    if vision is None:
        raise ModelError(
            f"{stem} is not there with weights of {preferred}. Pass --dtype "
            f"{' or '.join(by_stem[stem])}"
        )
    known = (_IMMICH_PROCESSOR,) if stem == _IMMICH_STEM else _PROCESSORS
    processor = next((name for name in known if name in there), None)
    if processor is None:
        raise ModelError(
            f"there is no {known[0]}, which says what is done to pictures. Fetch {vision} and "
            "pass it to `twinlens models add`, with --preset or the single options"
        )
    # Words are embedded on the processor, whatever pictures are.
    of_words = [preferred, "fp32"] if is_asked else ["fp32", preferred]
    return _with_words(there, vision, processor, of_words)


def files_beside(graph: str, there: Iterable[str]) -> list[str]:
    """Returns the files that have a graph's weights, by their names: model.onnx_data or so."""
    return [name for name in there if name.startswith((f"{graph}_data", f"{graph}.data"))]


def _by_dtype(stem: str, graphs: Sequence[str]) -> dict[str, str]:
    """Returns the graphs of one name, by the kind of their weights."""
    return {
        dtype: f"{stem}{ending}.onnx"
        for dtype, endings in DTYPES.items()
        for ending in endings
        if f"{stem}{ending}.onnx" in graphs
    }


def _first(graphs: Mapping[str, str], dtypes: Iterable[str]) -> str | None:
    return next((graphs[dtype] for dtype in dtypes if dtype in graphs), None)


def _with_words(
    there: Sequence[str], vision: str, processor: str, dtypes: Sequence[str]
) -> ModelFiles:
    is_immich = processor == _IMMICH_PROCESSOR
    folder = vision.rpartition("/")[0]
    stem = "textual/model" if is_immich else f"{folder}/text_model".removeprefix("/")
    notes = [name for name in (_IMMICH if is_immich else _TRANSFORMERS) if name in there]
    tokenizers = [name for name in notes if name.rpartition("/")[2] == "tokenizer.json"]
    return ModelFiles(
        vision=vision,
        text=_first(_by_dtype(stem, there), dtypes),
        processor=processor,
        tokenizer=tokenizers[0] if tokenizers else None,
        notes=tuple(notes),
    )


def _without_onnx(there: Sequence[str]) -> str:
    pickles = [name for name in there if name.endswith(_PICKLES)]
    others = [name for name in there if name.endswith(_OTHER_WEIGHTS)]
    if pickles and not others:
        return (
            f"there are only pickles ({_some(pickles)}): they can run code as they are read, and "
            "are never loaded. Pass a repository with ONNX graphs, or a folder that `optimum-cli "
            "export onnx` made"
        )
    code = [name for name in there if name.endswith(".py")]
    own = f", and code of its own ({_some(code)}), which is never run" if code else ""
    return (
        f"there is no ONNX graph, but {_some(others or there)}{own}. Pass a repository with one, "
        "or a folder that `optimum-cli export onnx` made"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) or "nothing") + more
