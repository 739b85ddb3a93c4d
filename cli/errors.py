"""What ends a command: one clear line on standard error, and an exit status."""

from __future__ import annotations

from typing import IO

import click

from twinlens.cli.output import say


class CommandFailed(click.ClickException):
    """The command could not do what was asked. Exit status 1."""

    exit_code = 1

    def show(self, file: IO[str] | None = None) -> None:  # noqa: ARG002 (click's interface)
        """Writes the line."""
        say(f"twinlens: {self.format_message()}", is_error=True)


class CommandRefused(CommandFailed):
    """The command cannot run as given, and nothing was started. Exit status 2."""

    exit_code = 2
