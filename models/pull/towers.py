"""Makes a model of a folder: its graphs in the one form, and what its card must say of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from twinlens.models.build.adapt import Adapted, Pool, adapt_graph, read_network
from twinlens.models.build.graph import find_dims, parse_network
from twinlens.models.build.text_tower import TokenPool, adapt_text, count_tokens
from twinlens.models.pull.graphs import (
    MAPS_RANK,
    PICTURE_OUTPUTS,
    TOKEN_OUTPUTS,
    WORD_OUTPUTS,
    arithmetic_left,
    check_size,
    choose_output,
    external_files,
    find_image,
    free_side,
)
from twinlens.models.pull.pixels import Fields, Preparation, read_open_clip, read_processor
from twinlens.models.pull.words import Rules, immich_rules, shape_tokenizer, transformers_rules
from twinlens.shared.errors import ModelError

if TYPE_CHECKING:
    from onnx import GraphProto

    from twinlens.models.pull.layout import ModelFiles

# Transformers whose first token is what they are trained by.
_BY_FIRST_TOKEN = {"dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "deit", "vit_msn"}


@dataclass(frozen=True)
class TextTower:
    """A text encoder: its graph in the one form, its tokenizer, and how long a text may be."""

    graph: bytes
    tokenizer: bytes
    max_tokens: int


@dataclass(frozen=True)
class Towers:
    """A model as it is added: pictures, and words where it has them."""

    pictures: Adapted
    words: TextTower | None


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
        output = self._wishes.output or choose_output(graph, PICTURE_OUTPUTS, self._files.vision)
        return adapt_graph(
            vision,
            arithmetic_left(find_image(graph), pixels),
            resizing=pixels.preset.resizing,
            size_px=free_side(graph, pixels),
            output=output,
            pool=self._wishes.pool or self._pool(graph, output),
        )

    def _pool(self, graph: GraphProto, output: str) -> Pool:
        values = [one for one in graph.output if one.name == output]
        if output not in TOKEN_OUTPUTS or not values:
            return "none"
        if len(find_dims(values[0]) or []) == MAPS_RANK:
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

    def _read_words(self, vision: bytes) -> TextTower | None:
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
        output = choose_output(graph, WORD_OUTPUTS, files.text or files.vision)
        pool = self._token_pool() if output in TOKEN_OUTPUTS else "none"
        if pool is None:
            raise ModelError(
                f"{files.text or files.vision} gives tokens ({output}), and no 1_Pooling/config."
                "json says how one vector is made of them. Pass --no-words for the pictures alone"
            )
        tokenizer = shape_tokenizer(files.tokenizer, self._read_file(files.tokenizer), rules)
        return TextTower(adapt_text(content, output, pool), tokenizer, rules.max_tokens)

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
        if not (self._folder / name).is_file():
            return {}
        try:
            return json.loads(self._read_file(name))
        except ValueError as error:
            raise ModelError(
                f"{name} is not JSON ({error}). Fetch it again, or pass another folder"
            ) from error

    def _read_file(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise ModelError(
                f"{name} cannot be read ({error.strerror}). Make it readable"
            ) from error
