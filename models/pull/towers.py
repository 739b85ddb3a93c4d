"""Makes a model of a folder: its graphs in the one form, and what its card must say of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto

from twinlens.models.build.adapt import Adapted, Pool, adapt_graph, read_network
from twinlens.models.build.graph import find_dims, parse_network
from twinlens.models.build.presets import Layout, Preprocessing
from twinlens.models.build.text_tower import TokenPool, adapt_text, count_tokens
from twinlens.models.pull.pixels import Fields, Preparation, read_open_clip, read_processor
from twinlens.models.pull.words import Rules, immich_rules, shape_tokenizer, transformers_rules
from twinlens.shared.errors import ModelError

if TYPE_CHECKING:
    from onnx import GraphProto, ValueInfoProto

    from twinlens.models.pull.layout import ModelFiles

# Of a file in the form of protobuf.
LARGEST_GRAPH_BYTES = 2**31
# Outputs that are embeddings, the best first: the last two are before a projection to the space
# that pictures share with words.
_OF_PICTURES = ("image_embeds", "embedding", "sentence_embedding", "pooler_output")
_OF_WORDS = ("text_embeds", "embedding", "sentence_embedding", "pooler_output")
_TOKENS = ("last_hidden_state", "token_embeddings")
_CLASSES = "logits"
# Transformers whose first token is what they are trained by.
_BY_FIRST_TOKEN = {"dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "deit", "vit_msn"}
_MAPS_RANK = 4


@dataclass(frozen=True)
class Words:
    """A text encoder: its graph in the one form, its tokenizer, and how long a text may be."""

    graph: bytes
    tokenizer: bytes
    max_tokens: int


@dataclass(frozen=True)
class Towers:
    """A model as it is added: pictures, and words where it has them."""

    pictures: Adapted
    words: Words | None


@dataclass(frozen=True)
class Wishes:
    """What the user says of a model in place of its files; None where they are to tell."""

    output: str | None = None
    pool: Pool | None = None
    has_words: bool = True


class FolderReader:
    """Reads a model's files in a folder."""

    def __init__(self, folder: Path, files: ModelFiles, wishes: Wishes) -> None:
        """Names the folder, the files in it, and what the user wants otherwise."""
        self._folder = folder
        self._files = files
        self._wishes = wishes

    def read(self) -> Towers:
        """Makes the model.

        Raises:
            ModelError: A file is not what it should be, or asks for what cannot be done.
            ModelRefused: As `adapt_graph` does.
        """
        vision = self._read_graph(self._files.vision)
        pictures = self._read_pictures(vision)
        return Towers(pictures, self._read_words(vision) if self._wishes.has_words else None)

    def read_preparation(self) -> Preparation:
        """Reads what is done to a picture; of the files, that one alone need be there.

        Raises:
            ModelError: As `read` does.
        """
        fields = self._fields(self._files.processor)
        read = read_open_clip if self._files.is_immich else read_processor
        # transformers 5 has it in one file with what is done to words.
        inner = fields.get("image_processor")
        return read(self._files.processor, inner if isinstance(inner, dict) else fields)

    def _read_pictures(self, vision: bytes) -> Adapted:
        pixels = self.read_preparation()
        graph = parse_network(vision).graph
        output = self._wishes.output or _output(graph, _OF_PICTURES, self._files.vision)
        return adapt_graph(
            vision,
            _arithmetic(_image(graph), pixels),
            resizing=pixels.preset.resizing,
            size_px=_free_side(graph, pixels),
            output=output,
            pool=self._wishes.pool or self._pool(graph, output),
        )

    def _pool(self, graph: GraphProto, output: str) -> Pool:
        values = [one for one in graph.output if one.name == output]
        if output not in _TOKENS or not values:
            return "none"
        if len(find_dims(values[0]) or []) == _MAPS_RANK:
            return "avg"
        pooled = self._token_pool()
        if pooled is not None:
            return pooled
        kind = str(self._fields("config.json").get("model_type"))
        if kind in _BY_FIRST_TOKEN:
            return "cls"
        raise ModelError(
            f"{self._files.vision} gives tokens ({output}), and nothing says how a model of type "
            f"{kind!r} makes one vector of them. Pass --pool cls, for the first, or mean"
        )

    def _token_pool(self) -> TokenPool | None:
        """What sentence-transformers say, where this is one of theirs."""
        said = self._fields("1_Pooling/config.json")
        if said.get("pooling_mode_cls_token"):
            return "cls"
        return "mean" if said.get("pooling_mode_mean_tokens") else None

    def _read_words(self, vision: bytes) -> Words | None:
        files = self._files
        content = self._read_graph(files.text) if files.text else vision
        graph = parse_network(content).graph
        is_of_words = bool(files.text) or "text_embeds" in [one.name for one in graph.output]
        if files.tokenizer is None or not is_of_words:
            return None
        self._check_modules()
        rules = self._rules()
        n_tokens = count_tokens(content)
        if n_tokens:
            rules = rules._replace(max_tokens=n_tokens, is_padded=True)
        output = _output(graph, _OF_WORDS, files.text or files.vision)
        pool = self._token_pool() if output in _TOKENS else "none"
        if pool is None:
            raise ModelError(
                f"{files.text or files.vision} gives tokens ({output}), and no 1_Pooling/config."
                "json says how one vector is made of them. Pass --no-words for the pictures alone"
            )
        tokenizer = shape_tokenizer(
            files.tokenizer, (self._folder / files.tokenizer).read_bytes(), rules
        )
        return Words(adapt_text(content, output, pool), tokenizer, rules.max_tokens)

    def _check_modules(self) -> None:
        modules = self._json("modules.json")
        for module in modules if isinstance(modules, list) else []:
            kind = str(module.get("type") if isinstance(module, dict) else module)
            if kind.endswith("Dense"):
                raise ModelError(
                    f"modules.json has a layer after the text encoder ({kind}), which is not in "
                    "its graph. Pass --no-words for the pictures alone"
                )

    def _rules(self) -> Rules:
        config = self._fields("config.json")
        if self._files.is_immich:
            return immich_rules(config, self._fields("textual/tokenizer_config.json"))
        return transformers_rules(
            config,
            self._fields("tokenizer_config.json"),
            self._fields("special_tokens_map.json"),
        )

    def _read_graph(self, name: str) -> bytes:
        path = self._folder / name
        n_bytes = sum(
            (path.parent / one).stat().st_size
            for one in (path.name, *external_files(path))
            if (path.parent / one).is_file()
        )
        check_size(name, n_bytes)
        return read_network(path)

    def _fields(self, name: str) -> Fields:
        fields = self._json(name)
        if not isinstance(fields, dict):
            raise ModelError(f"{name} is no JSON object. Fetch it again, or pass another folder")
        return fields

    def _json(self, name: str) -> object:
        """Reads a small file; one that is not there says nothing."""
        path = self._folder / name
        if not path.is_file():
            return {}
        try:
            return json.loads(path.read_bytes())
        except ValueError as error:
            raise ModelError(
                f"{name} is not JSON ({error}). Fetch it again, or pass another folder"
            ) from error


def external_files(graph: Path) -> list[str]:
    """Returns the files beside a graph that have its weights, as it names them.

    Raises:
        ModelError: It is not ONNX.
    """
    try:
        model = onnx.load(graph, load_external_data=False)
    except Exception as error:  # protobuf and onnx have no common base of their errors
        raise ModelError(
            f"{graph.name} cannot be read as ONNX ({error}). Fetch it again, or pass another"
        ) from error
    places = [
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    ]
    return [*dict.fromkeys(places)]


def check_size(name: str, n_bytes: int) -> None:
    """Refuses a graph that is too large for one file.

    Raises:
        ModelError: It is.
    """
    if n_bytes >= LARGEST_GRAPH_BYTES:
        raise ModelError(
            f"{name} has {n_bytes / 1e9:.1f} GB with its weights, and a model here is one file of "
            "2 GiB at most. Pass --dtype fp16 or int8, or a smaller model of its family"
        )


def _output(graph: GraphProto, preferred: tuple[str, ...], name: str) -> str:
    there = [value.name for value in graph.output]
    for one in (*preferred, *_TOKENS):
        if one in there:
            return one
    others = [one for one in there if one != _CLASSES]
    if len(others) == 1 and _CLASSES not in there:
        only: str = others[0]
        return only
    raise ModelError(
        f"{name} gives {', '.join(there)}: "
        + ("classes alone, and " if others == [] else "")
        + "no embedding. Pass the repository of the model without its classification head, or "
        "--output with the tensor before it"
    )


def _image(graph: GraphProto) -> ValueInfoProto:
    """Returns the input that is a picture: of rank 4."""
    value: ValueInfoProto
    for value in graph.input:
        if len(find_dims(value) or []) == _MAPS_RANK:
            return value
    names = ", ".join(value.name for value in graph.input)
    raise ModelError(
        f"the graph takes {names}, and no picture of rank 4. Pass a repository whose vision model "
        "takes pixel_values"
    )


def _is_channels_last(image: ValueInfoProto) -> bool:
    dims = find_dims(image) or []
    return dims[3] == 3 and dims[1] != 3


def _arithmetic(image: ValueInfoProto, pixels: Preparation) -> Preprocessing:
    """What is left to do to pixels: a graph of bytes does the arithmetic itself."""
    said = pixels.preset.preprocessing
    layout: Layout = "nhwc" if _is_channels_last(image) else "nchw"
    if image.type.tensor_type.elem_type == TensorProto.UINT8:
        return Preprocessing(layout, said.channels, 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Preprocessing(layout, said.channels, said.scale, said.mean, said.std)


def _free_side(graph: GraphProto, pixels: Preparation) -> int | None:
    """Returns the side of the picture, where the graph takes any.

    Raises:
        ModelError: The graph takes pictures of another size.
    """
    image = _image(graph)
    dims = find_dims(image) or []
    at = 1 if _is_channels_last(image) else 2
    height, width = dims[at : at + 2]
    if (height or pixels.height, width or pixels.width) != (pixels.height, pixels.width):
        raise ModelError(
            f"the graph takes pictures of {width} x {height}, and its preprocessing gives "
            f"{pixels.width} x {pixels.height}. Pass a repository whose files belong together"
        )
    if height and width:
        return None
    if pixels.width != pixels.height:
        raise ModelError(
            f"the graph takes pictures of any size, and they are to be {pixels.width} x "
            f"{pixels.height}. Export the network with this size"
        )
    return pixels.width
