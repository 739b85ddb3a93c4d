"""Makes one file of a tokenizer and of what other files say of how it is used.

`tokenizer.json` has the words, and mostly the tokens before and after a text. How long a text is
filled up, and whether its letters are made small first, transformers and Immich keep elsewhere;
here it goes into the same file, so that a text encoder is its graph and its tokenizer.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import JsonValue
from tokenizers import Regex, Tokenizer, normalizers, processors

from twinlens.models.pull.pixels import Fields
from twinlens.shared.errors import ModelError

# What open_clip removes from a text where `clean` is "canonicalize": `string.punctuation`.
_PUNCTUATION = r"""[!-/:-@\[-`{-~]"""
# Of CLIP and SigLIP, where nothing says it.
_CLIP_TOKENS, _SIGLIP_TOKENS = 77, 64
# transformers writes 1e30 where a tokenizer has no limit of its own.
_MOST_TOKENS = 8192
# Classes whose first and last token are said by flags, whatever their tokenizer.json says.
_BY_FLAGS = ("Gemma", "Llama", "Siglip2")


class Rules(NamedTuple):
    """How a text becomes tokens, besides what `tokenizer.json` says."""

    max_tokens: int
    is_padded: bool
    is_lower: bool = False
    is_canonical: bool = False
    pad_token: str | None = None
    padding_side: str = "right"
    bos: str | None = None
    eos: str | None = None
    has_flags: bool = False


def transformers_rules(config: Fields, tokenizer: Fields, special: Fields) -> Rules:
    """Reads the rules of transformers' layout.

    Args:
        config: `config.json`.
        tokenizer: `tokenizer_config.json`.
        special: `special_tokens_map.json`.
    """
    text = _part(config, "text_config") or config
    is_siglip = str(config.get("model_type", "")).startswith("siglip")
    has_flags = str(tokenizer.get("tokenizer_class", "")).startswith(_BY_FLAGS)
    positions = text.get("max_position_embeddings")
    default = positions if isinstance(positions, int) else None
    named = {**special, **tokenizer}
    return Rules(
        max_tokens=(
            _limit(None if is_siglip else tokenizer.get("model_max_length"))
            or default
            or (_SIGLIP_TOKENS if is_siglip else _CLIP_TOKENS)
        ),
        # Trained so: SigLIP reads the last place, whatever is there, and small letters.
        is_padded=is_siglip,
        is_lower=is_siglip or tokenizer.get("do_lower_case") is True,
        pad_token=_content(named.get("pad_token")),
        padding_side="left" if tokenizer.get("padding_side") == "left" else "right",
        bos=_content(named.get("bos_token")) if tokenizer.get("add_bos_token") else None,
        eos=_content(named.get("eos_token")) if tokenizer.get("add_eos_token") else None,
        has_flags=has_flags and "add_eos_token" in tokenizer,
    )


def immich_rules(config: Fields, tokenizer: Fields) -> Rules:
    """Reads the rules of Immich's layout: its `config.json`, and `tokenizer_config.json`."""
    text = _part(config, "text_cfg")
    return Rules(
        max_tokens=_limit(text.get("context_length")) or _CLIP_TOKENS,
        is_padded=True,
        is_canonical=_part(text, "tokenizer_kwargs").get("clean") == "canonicalize",
        pad_token=_content(tokenizer.get("pad_token")),
    )


def shape_tokenizer(name: str, content: bytes, rules: Rules) -> bytes:
    """Returns a `tokenizer.json` that does all that the rules say.

    Raises:
        ModelError: It is no tokenizer, or has no token to fill up with.
    """
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # tokenizers raises plain exceptions
        raise ModelError(
            f"{name} is no tokenizer of the tokenizers library ({error}). Pass a folder with one, "
            "or --no-words for the pictures alone"
        ) from error
    _normalize(tokenizer, rules)
    if rules.has_flags:
        _surround(tokenizer, rules)
    tokenizer.enable_truncation(rules.max_tokens)
    if rules.is_padded:
        pad_id = tokenizer.token_to_id(rules.pad_token or "")
        if pad_id is None:
            raise ModelError(
                f"{name} has no token {rules.pad_token!r}, with which texts are filled up to "
                f"{rules.max_tokens}. Pass a folder whose tokenizer_config.json names one as "
                "pad_token, or --no-words for the pictures alone"
            )
        tokenizer.enable_padding(
            direction=rules.padding_side,
            length=rules.max_tokens,
            pad_id=pad_id,
            pad_token=rules.pad_token or "",
        )
    shaped: str = tokenizer.to_str()
    return shaped.encode()


def _normalize(tokenizer: Tokenizer, rules: Rules) -> None:
    first = []
    if rules.is_canonical:
        first = [
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Replace(Regex(_PUNCTUATION), ""),
        ]
    if rules.is_canonical or rules.is_lower:
        first.append(normalizers.Lowercase())
    if first:
        own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([*first, *own])


def _surround(tokenizer: Tokenizer, rules: Rules) -> None:
    """Puts the first and the last token around a text, as the flags say."""
    tokens = [one for one in (rules.bos, rules.eos) if one is not None]
    template = " ".join(one for one in (rules.bos, "$A", rules.eos) if one is not None)
    ids = [(one, tokenizer.token_to_id(one)) for one in tokens]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)


def _part(fields: Fields, key: str) -> Fields:
    part = fields.get(key)
    return part if isinstance(part, dict) else {}


def _limit(said: JsonValue) -> int | None:
    """Returns a number of tokens, if it is one that limits anything."""
    if not isinstance(said, int | float) or not 0 < said <= _MOST_TOKENS:
        return None
    return int(said)


def _content(said: JsonValue) -> str | None:
    """Returns a token as text; some files have it with its properties."""
    token = said.get("content") if isinstance(said, dict) else said
    return token if isinstance(token, str) else None
