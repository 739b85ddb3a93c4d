"""How commands tell what they have to: a result, messages, questions and bars.

A result goes to standard output: as text, or with `--json` as one JSON document and nothing else;
messages then go to standard error. In a terminal, lines are wrapped at its width. In a pipe they
are as they are, and there are no bars.
"""

# ruff: noqa: PLC0415 (imports wait until they are used, so that --help takes 60 ms)
from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

INTERRUPTED = 130  # 128 and SIGINT, as shells have it
_IS_JSON = "twinlens.is_json"


def _choose_json(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001 (click passes it)
    # Shared with the contexts of subcommands: `libraries --json set …` is meant for `set`.
    if value:
        ctx.meta[_IS_JSON] = True


json_option = click.option(
    "--json",
    is_flag=True,
    expose_value=False,
    callback=_choose_json,
    help="Print the result as JSON; messages go to standard error.",
)


def show(result: object, print_text: Callable[[], None]) -> None:
    """Prints a command's result, once.

    Args:
        result: What `--json` prints: messages, dataclasses, or dicts and lists of them.
        print_text: Prints the same for people.
    """
    if not _is_json():
        print_text()
        return
    from pydantic import TypeAdapter

    click.echo(TypeAdapter(object).dump_json(result, indent=2).decode())


def say(line: str = "", *, is_error: bool = False) -> None:
    """Prints a line for people. A word that is wider than the terminal, as an id, stays whole."""
    is_error = is_error or _is_json()
    console = _console(is_error=is_error)
    click.echo(_wrapped(line, console.width) if console.is_terminal else line, err=is_error)


def confirm(question: str) -> None:
    """Asks on standard error whether to go on.

    Raises:
        Abort: The user says no.
    """
    say(question, is_error=True)
    click.confirm("Go on?", abort=True, err=True)


def make_bars(*columns: ProgressColumn) -> Progress:
    """Makes bars of progress on standard error; none are drawn unless that is a terminal."""
    from rich.progress import Progress

    console = _console(is_error=True)
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _wrapped(line: str, width: int) -> str:
    from rich.cells import cell_len

    first, *words = line.split(" ")
    lines = [first]
    for word in words:
        if cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)


def _is_json() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and context.meta.get(_IS_JSON, False)


def _console(*, is_error: bool) -> Console:
    from rich.console import Console

    return Console(stderr=is_error)
