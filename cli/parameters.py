"""Options that several commands have, and kinds of values that click does not know."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import click

from twinlens.cli.files import STDIN
from twinlens.cli.service.addresses import DEFAULT_URL
from twinlens.shared.names import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem
    from pydantic import BaseModel

    from twinlens.client.client import Client

    Model = TypeVar("Model", bound=BaseModel)

_IMAGE_ID = re.compile("[0-9a-f]{64}")

url_option = click.option(
    "--url",
    envvar="TWINLENS_URL",
    default=DEFAULT_URL,
    show_default=True,
    show_envvar=True,
    help="Address of the service.",
)


def _served(ctx: click.Context, list_names: Callable[[Client], list[str]], begun: str) -> list[str]:
    """Completes a name that the service knows; where none answers, there is nothing to offer."""
    from twinlens.client.client import Client  # noqa: PLC0415 (it takes 100 ms, as read_as says)
    from twinlens.client.errors import RequestFailed  # noqa: PLC0415

    try:
        with Client(ctx.params.get("url") or DEFAULT_URL) as client:
            return [name for name in list_names(client) if name.startswith(begun)]
    except RequestFailed:
        return []


def complete_library(ctx: click.Context, param: click.Parameter, begun: str) -> list[str]:  # noqa: ARG001 (click passes it)
    """Gives the libraries whose names begin so, to a shell."""
    return _served(ctx, lambda client: [one.name for one in client.libraries()], begun)


def complete_models(ctx: click.Context, param: click.Parameter, begun: str) -> list[str]:  # noqa: ARG001 (click passes it)
    """Gives the models that may stand after the last comma, to a shell."""
    before, comma, last = begun.rpartition(",")
    names = _served(ctx, lambda client: [one.name for one in client.models()], last)
    return [f"{before}{comma}{name}" for name in names]


library_option = click.option(
    "--library",
    default="default",
    show_default=True,
    shell_complete=complete_library,
    help="Name of the library.",
)
models_option = click.option(
    "--models",
    shell_complete=complete_models,
    help="Models to ask: a,b,…  [default: all of the library]",
)


class ImageIdParameter(click.ParamType[str]):
    """The id of a stored image."""

    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuses what cannot be an id, before anything is asked."""
        if not _IMAGE_ID.fullmatch(value):
            self.fail(f"{value} is no id of an image: 64 digits, 0 to 9 and a to f", param, ctx)
        return value


class ExampleParameter(click.ParamType["Path | str"]):
    """A picture: a file, `-` for standard input, or the id of a stored image."""

    name = "file"

    def convert(
        self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | str:
        """Tells which it is: a path, or an id as a text."""
        path = Path(value)
        # Unlike Path.is_dir, these say no to a name that is too long.
        if os.path.isdir(path):  # noqa: PTH112
            self.fail(f"{value} is a folder", param, ctx)
        if path == STDIN or os.path.exists(path):  # noqa: PTH110
            return path
        if _IMAGE_ID.fullmatch(str(value)):
            return str(value)
        return self.fail(f"{value} is neither a file nor the id of an image", param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Has the shell complete it as a file."""
        return click.Path(dir_okay=False).shell_complete(ctx, param, incomplete)


class NamedNumber(click.ParamType[tuple[str, float]]):
    """A name with a finite number: phash=0.5."""

    name = "name=number"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """Reads it; a number without a fraction is an int."""
        name, _, text = value.rpartition("=")
        try:
            number = _number(text)
        except ValueError:
            name = ""
        if not name:
            self.fail(f"{value!r} is not a name, `=` and a number", param, ctx)
        return name, number


class RegionParameter(click.ParamType[tuple[float, ...]]):
    """Four numbers: left, top, right and bottom edge, from 0 to 1."""

    name = "l,t,r,b"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Reads the numbers. Whether they make a region is for the query to check."""
        try:
            edges = tuple(_number(word) for word in value.split(","))
        except ValueError:
            edges = ()
        if len(edges) != 4:
            self.fail(f"{value!r} is not four numbers with commas between", param, ctx)
        return edges


class CardText(click.ParamType[str]):
    """Words for a model's card, as the card takes them."""

    def __init__(self, name: Literal["name", "version", "text", "template"]) -> None:
        """Takes what the words are."""
        self.name = name

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Checks the words."""
        from twinlens.models import card  # noqa: PLC0415 (numpy, which --help is spared)

        checks = {
            "name": card.check_name,
            "version": card.check_version,
            "text": card.check_text,
            "template": card.check_template,
        }
        try:
            return checks[self.name](printable(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class FileToWrite(click.Path[Path]):
    """A file that is written at the end: it is known at the beginning that it can be."""

    def __init__(self, *suffixes: str) -> None:
        """Takes the endings of the kind of file that is written, the usual one first."""
        super().__init__(dir_okay=False, readable=False, writable=True, path_type=Path)
        self._suffixes = suffixes

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Path:
        """Checks the ending, and the folder."""
        path = super().convert(value, param, ctx)
        if path.suffix.lower() not in self._suffixes:
            self.fail(f"{str(path)!r} does not end in {self._suffixes[0]}: rename it", param, ctx)
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            self.fail(f"{str(path)!r} cannot be written: {error.strerror}", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"there is no folder {str(path.parent)!r}: make it first", param, ctx)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            self.fail(f"the folder {str(path.parent)!r} cannot be written to", param, ctx)
        return path


def read_as(kind: type[Model], **fields: object) -> Model:
    """Makes a message from what the user gave.

    Raises:
        click.UsageError: A field is not valid.
    """
    from pydantic import ValidationError  # noqa: PLC0415 (it takes 100 ms, which --help is spared)

    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        # pydantic puts "Value error, " before what a rule of ours says.
        reason = first["msg"].removeprefix("Value error, ")
        raise click.UsageError(f"{field}: {reason}" if field else reason) from None


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number
