"""A contact sheet: the query above, then one row of pictures for the fusion and each model."""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from twinlens.cli.show.lettering import Lettering
from twinlens.models.pictures import thumbnail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twinlens.shared.queries import Rectangle

MAX_COLUMNS = 8
CELL_PX = 150
GAP_PX = 12
LINE_PX = 17
TEXT_PX = 13
TITLE_PX = 16
# What a cell's width holds of TEXT_PX letters.
MAX_CHARS = 21
PAPER, INK, FADED, RULE = "white", "#1a1a1a", "#6b6b6b", "#dddddd"
FRAME = "#e0007a"

Box = tuple[int, int, int, int]  # left, top, right and bottom, in pixels of the sheet


@dataclass(frozen=True)
class Cell:
    """A picture with two lines below it: its name, and a caption. A part of it may be framed."""

    thumbnail: bytes
    name: str
    caption: str
    framed: Rectangle | None = None


def draw_sheet(
    query: bytes | None, title: str, rows: Mapping[str, Sequence[Cell]], heading: str = "query"
) -> Image.Image:
    """Draws a contact sheet.

    Args:
        query: The query picture's file, if it is a picture.
        title: A line beside it.
        rows: Cells by the row's name, at most MAX_COLUMNS each.
        heading: Above the title.

    Returns:
        The sheet, RGB.
    """
    n_columns = max(3, *(len(cells) for cells in rows.values()))
    width = GAP_PX + n_columns * (CELL_PX + GAP_PX)
    row_px = LINE_PX + GAP_PX + CELL_PX + 2 * LINE_PX + GAP_PX
    sheet = Image.new("RGB", (width, 2 * GAP_PX + CELL_PX + len(rows) * row_px), PAPER)
    draw = ImageDraw.Draw(sheet)
    text, large = Lettering(draw, TEXT_PX), Lettering(draw, TITLE_PX)

    if query is not None:
        _paste(sheet, thumbnail(query, CELL_PX), GAP_PX, GAP_PX)
    beside = 2 * GAP_PX + CELL_PX
    large.write(beside, GAP_PX, heading, INK)
    n_chars = (width - beside) * MAX_CHARS // CELL_PX
    for place, line in enumerate(textwrap.wrap(title, n_chars), start=2):
        text.write(beside, GAP_PX + place * LINE_PX, line, FADED)
    top = 2 * GAP_PX + CELL_PX
    for name, cells in rows.items():
        draw.line((GAP_PX, top, width - GAP_PX, top), RULE)
        large.write(GAP_PX, top + GAP_PX // 2, name, INK)
        below = top + LINE_PX + GAP_PX
        for column, cell in enumerate(cells[:MAX_COLUMNS]):
            left = GAP_PX + column * (CELL_PX + GAP_PX)
            box = _paste(sheet, cell.thumbnail, left, below)
            if cell.framed is not None:
                draw.rectangle(_within(box, cell.framed), outline=FRAME, width=2)
            text.write(left, below + CELL_PX + 2, text.shortened(cell.name, CELL_PX), INK)
            text.write(left, below + CELL_PX + 2 + LINE_PX, cell.caption, FADED)
        top += row_px
    return sheet


def _paste(sheet: Image.Image, picture: bytes, left: int, top: int) -> Box:
    """Returns where the picture is now."""
    with Image.open(io.BytesIO(picture)) as image:
        image.thumbnail((CELL_PX, CELL_PX))
        left, top = left + (CELL_PX - image.width) // 2, top + (CELL_PX - image.height) // 2
        sheet.paste(image, (left, top))
        return left, top, left + image.width - 1, top + image.height - 1


def _within(box: Box, region: Rectangle) -> Box:
    """Returns a region of a picture that is drawn in a box, in pixels."""
    left, top = box[:2]
    width, height = box[2] - left, box[3] - top
    return (
        round(left + region[0] * width),
        round(top + region[1] * height),
        round(left + region[2] * width),
        round(top + region[3] * height),
    )
