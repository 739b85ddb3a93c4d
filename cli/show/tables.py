"""Tables: in a terminal within its width, in a pipe as columns with tabs between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from twinlens.cli.output import say
from twinlens.shared.names import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Narrower, a name cannot be read, nor a heading.
MIN_NAME_CHARS = 12
MIN_HEADING_CHARS = 9


@dataclass(frozen=True)
class Column:
    """A column, and what becomes of it in a terminal that is narrower than the table.

    Attributes:
        heading: Goes on in the next line where the texts below are shorter.
        min_chars: The fewest characters in a line of a text that goes on in the next one; None
            where texts stay in one line.
        leave_out: Columns with the highest are left out first; 0 is always shown, folded as much
            as it takes.
    """

    heading: str
    min_chars: int | None = None
    leave_out: int = 0


def named(heading: str) -> Column:
    """Returns a column of names, which are folded so that their ends are seen."""
    return Column(heading, MIN_NAME_CHARS)


def print_table(
    columns: Sequence[Column | str], rows: Iterable[Sequence[str]], title: str | None = None
) -> None:
    """Prints a table. What is not left out is whole, so that ids can be copied.

    Args:
        columns: Or their headings, of columns that are always shown in one line.
        rows: A text for each column.
        title: Above the table.
    """
    whole = [Column(one) if isinstance(one, str) else one for one in columns]
    cells = [[printable(cell) for cell in row] for row in rows]
    console = Console()
    if not console.is_terminal:
        for line in (*([[title]] if title else []), [one.heading for one in whole], *cells):
            click.echo("\t".join(line))
        return
    table = _table(whole, cells, title)
    # As wide as it may be, so that it is measured and not squeezed.
    left_out: list[str] = []
    if _width(table) > console.width:
        table, left_out = _narrowed(whole, cells, title, console.width)
    console.width = max(console.width, _width(table))
    console.print(table)
    if left_out:
        say(f"no room for {', '.join(left_out)}: a wider terminal shows more")


def _table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    title: str | None,
    widths: Sequence[int | None] | None = None,
) -> Table:
    table = Table(title=title, box=SIMPLE, padding=(0, 1) if widths is None else (0, 1, 0, 0))
    for column, width in zip(columns, widths or [None] * len(columns), strict=True):
        table.add_column(Text(column.heading), width=width, no_wrap=width is None, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _width(table: Table) -> int:
    return Console(width=10_000).measure(table).maximum


def _narrowed(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], title: str | None, max_width: int
) -> tuple[Table, list[str]]:
    """Leaves out what counts least until the rest fits, folded; gives the headings left out too."""
    shown = list(range(len(columns)))
    while True:
        kept = [columns[place] for place in shown]
        cells = [[row[place] for place in shown] for row in rows]
        room = max_width - _width(_table(kept, [], None, [0] * len(kept)))
        widths = _folded_widths(kept, cells, room)
        least = max(shown, key=lambda place: (columns[place].leave_out, place))
        if sum(widths) <= room or not columns[least].leave_out:
            break
        shown.remove(least)
    if sum(widths) > room:
        widths = _shrunk(widths, [1] * len(widths), room)
    left_out = [one.heading for place, one in enumerate(columns) if place not in shown]
    return _table(kept, cells, title, widths), left_out


def _folded_widths(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int
) -> list[int]:
    """Gives each column the width of its texts; those that may be folded share what is left."""
    widths, least = [], []
    for place, column in enumerate(columns):
        of_heading = max(map(cell_len, column.heading.split()), default=1)
        of_texts = max((cell_len(row[place]) for row in rows), default=1)
        widths.append(max(of_texts, min(of_heading, MIN_HEADING_CHARS)))
        least.append(widths[-1] if column.min_chars is None else column.min_chars)
    return _shrunk(widths, least, room)


def _shrunk(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Takes from the widest again and again, until all fit or none may become narrower."""
    shrunk = list(widths)
    while sum(shrunk) > room:
        wide = [place for place, width in enumerate(shrunk) if width > least[place]]
        if not wide:
            break
        shrunk[max(wide, key=shrunk.__getitem__)] -= 1
    return shrunk
