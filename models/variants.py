"""The forms in which a copy of a picture is looked for: turned, mirrored, nearer, without a border.

Each model gets the forms that it does not recognise by itself. A hash misses a picture that is
turned or mirrored, but finds copies that are smaller, grey, compressed or marked. A network knows a
picture by its parts, and looks only at the middle: it gets other parts. So a search takes
four times the network, and some milliseconds for nine hashes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twinlens.models.card import Card, InputSpec, OutputKind, Resample
from twinlens.models.pictures import Picture, Region
from twinlens.models.session import Pixels

# What each model weighs in calibrated fusion, where the evidence of an equal hash is the strongest
# there is. At twice the weight it drowned that of the networks for copies cropped off the middle.
NEAR_WEIGHT = 1.0

# Copies that are cropped to 80 % and to half are found by them, and the other way round by all of
# the picture.
_MIDDLES = (Region(0.1, 0.1, 0.9, 0.9), Region(0.2, 0.2, 0.8, 0.8))
# Side in pixels of the squashed picture that a border is looked for in.
_BORDER_SIDE_PX = 256
# Of 255, what JPEG makes of one colour; and the part of a row that may be dust.
_SAME_COLOUR = 12
_DUST = 0.02


def variants_of(picture: Picture, card: Card, *, has_hash: bool = True) -> Pixels:
    """Makes the pixels of all variants of a picture that a model is asked for.

    Args:
        picture: The picture to look for.
        card: The model's card. A hash gets the four turns, each mirrored as well, and what a border
            of one colour encloses; any other model two middles and, if it crops, the largest crop.
        has_hash: Whether a hash is asked too. If not, a network gets the four turns.

    Returns:
        uint8 [v, height, width, 3], RGB; the picture as it is comes first.
    """
    spec = card.input
    if card.output is OutputKind.BITS:
        turned = _turn(picture, spec)
        mirrored = [pixels[:, ::-1] for pixels in turned]
        return np.stack([*turned, *mirrored, trim(picture).pixels_for(spec)])
    variants = [picture.pixels_for(spec)] if has_hash else _turn(picture, spec)
    variants += [picture.part(middle).pixels_for(spec) for middle in _MIDDLES]
    largest = spec.model_copy(update={"crop_fraction": 1.0, "resized_px": None})
    if spec != largest:
        variants.append(picture.pixels_for(largest))
    return np.stack(variants)


def trim(picture: Picture) -> Picture:
    """Cuts off a border in the colour of the upper left corner. A flat picture stays whole.

    The border is looked for at 256 pixels per side: up to 1/256 of the picture may stay of it.
    """
    spec = InputSpec(width=_BORDER_SIDE_PX, height=_BORDER_SIDE_PX, resample=Resample.BILINEAR)
    pixels = picture.pixels_for(spec).astype(np.int16)
    differs = np.abs(pixels - pixels[0, 0]).max(axis=2) > _SAME_COLOUR
    rows, columns = (np.flatnonzero(differs.mean(axis=axis) > _DUST) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return picture
    edges = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return picture.part(Region(*(float(edge / _BORDER_SIDE_PX) for edge in edges)))


def _turn(picture: Picture, spec: InputSpec) -> list[NDArray[np.uint8]]:
    """The pixels of the picture turned by 0, 90, 180 and 270 degrees."""
    upright = sideways = picture.pixels_for(spec)
    if spec.width != spec.height:
        sides = {"width": spec.height, "height": spec.width}
        sideways = picture.pixels_for(spec.model_copy(update=sides))
    return [upright, np.rot90(sideways), np.rot90(upright, 2), np.rot90(sideways, 3)]
