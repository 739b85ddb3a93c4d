"""Edited copies of pictures: cropped, made smaller, compressed, turned, marked, framed."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from twinlens.models.bits import Embeddings
from twinlens.models.card import InputSpec, Resample
from twinlens.models.cores import n_cores
from twinlens.models.pictures import open_picture
from twinlens.models.session import Embedder
from twinlens.models.workbench.embeddings import Embedded, EmbeddingCache, EmbeddingRun
from twinlens.shared.errors import PictureError

EDITS = (
    "crop80",
    "crop50",
    "resize50",
    "jpegq30",
    "flip",
    "rot90",
    "rot180",
    "rot270",
    "watermark",
    "grey",
    "dark",
    "blur",
    "border",
    "canvas",
)

N_EDITED = 50

# Larger than any model looks at, and small enough to be edited in some milliseconds.
_EDIT_SIDE_PX = 1024

_MIN_SIDE_PX = 8

_Transpose = Image.Transpose


@dataclass(frozen=True)
class Edits:
    """Edited pictures: the image_id of each one's original, what was done, and its embeddings."""

    originals: tuple[str, ...]
    kinds: tuple[str, ...]
    rows: Mapping[str, Embeddings]


def embed_edits(
    models: Sequence[Embedder],
    embedded: Embedded,
    cache: EmbeddingCache,
    on_progress: Callable[[int], None] = lambda _: None,
    *,
    seed: int = 0,
) -> Edits:
    """Makes all EDITS of a sample of up to N_EDITED pictures, and embeds them.

    Args:
        models: The models, as given to `embed_all`.
        embedded: What that returned.
        cache: Where embeddings are kept.
        on_progress: Called after each chunk with the number of edits that are done.
        seed: Seed of the random sample.
    """
    paths = dict(zip(embedded.image_ids, embedded.files, strict=True))
    n_chosen = min(N_EDITED, len(paths))
    chosen = np.random.default_rng(seed).choice(sorted(paths), n_chosen, replace=False).tolist()
    with ThreadPoolExecutor(n_cores()) as pool:
        made_of_each = pool.map(_edit_file, [paths[image_id] for image_id in chosen])
        edits = [
            (image_id, kind, content)
            for image_id, made in zip(chosen, made_of_each, strict=True)
            for kind, content in made.items()
        ]
    run = EmbeddingRun(models, cache)
    contents = [io.BytesIO(content).getvalue for _, _, content in edits]
    outcomes = run.embed(contents, on_progress)
    done = [
        (original, kind, image_id)
        for (original, kind, _), (image_id, reason) in zip(edits, outcomes, strict=True)
        if reason is None
    ]
    return Edits(
        originals=tuple(original for original, _, _ in done),
        kinds=tuple(kind for _, kind, _ in done),
        rows=run.rows([image_id for _, _, image_id in done]),
    )


def edit_picture(content: bytes) -> dict[str, bytes]:
    """Makes typical edited copies of a picture: JPEG files by the names of EDITS.

    `crop80` and `crop50` are the middle 80 and 50 % of each side, `resize50` is half of each side,
    `jpegq30` has JPEG quality 30, `flip` is the mirror image, `rot90` and its like are turned
    anticlockwise, `watermark` has a line of pale text over it, `grey` has no colours, `dark` has
    60 % of the light, `blur` is softened over 1/256 of the longer side, `border` has a black one of
    5 % of the shorter side, and `canvas` lies on a white one of 5/3 of its sides.

    Raises:
        PictureError: The picture cannot be decoded.
    """
    image = _upright(content)
    width, height = image.size
    half = (max(1, width // 2), max(1, height // 2))
    return {
        "crop80": _jpeg(_middle(image, 10)),
        "crop50": _jpeg(_middle(image, 4)),
        "resize50": _jpeg(image.resize(half, Image.Resampling.LANCZOS)),
        "jpegq30": _jpeg(image, 30),
        "flip": _jpeg(image.transpose(_Transpose.FLIP_LEFT_RIGHT)),
        "rot90": _jpeg(image.transpose(_Transpose.ROTATE_90)),
        "rot180": _jpeg(image.transpose(_Transpose.ROTATE_180)),
        "rot270": _jpeg(image.transpose(_Transpose.ROTATE_270)),
        "watermark": _jpeg(_with_watermark(image)),
        "grey": _jpeg(image.convert("L")),
        "dark": _jpeg(ImageEnhance.Brightness(image).enhance(0.6)),
        "blur": _jpeg(image.filter(ImageFilter.GaussianBlur(max(image.size) / 256))),
        "border": _jpeg(ImageOps.expand(image, max(1, min(image.size) // 20))),
        "canvas": _jpeg(ImageOps.expand(image, (width // 3, height // 3), "white")),
    }


def _edit_file(path: Path) -> dict[str, bytes]:
    try:
        return edit_picture(path.read_bytes())
    except (OSError, PictureError):  # gone since it was embedded
        return {}


def _upright(content: bytes) -> Image.Image:
    picture = open_picture(content, wanted_px=_EDIT_SIDE_PX)
    scale = min(1.0, _EDIT_SIDE_PX / max(picture.width, picture.height))
    width, height = (max(_MIN_SIDE_PX, round(s * scale)) for s in (picture.width, picture.height))
    spec = InputSpec(width=width, height=height, resample=Resample.LANCZOS)
    return Image.fromarray(picture.pixels_for(spec))


def _middle(image: Image.Image, part: int) -> Image.Image:
    """Without one of so many parts at each edge."""
    left, top = image.width // part, image.height // part
    return image.crop((left, top, image.width - left, image.height - top))


def _with_watermark(image: Image.Image) -> Image.Image:
    layer = Image.new("RGBA", image.size)
    width, height = image.size
    font = ImageFont.load_default(max(8, min(width, height) // 6))
    place = (width // 2, height // 2)
    ImageDraw.Draw(layer).text(place, "© sample", (255, 255, 255, 150), font, anchor="mm")
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def _jpeg(image: Image.Image, quality: int = 90) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()
