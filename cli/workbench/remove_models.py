"""`twinlens models remove`: not while a library needs the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.cli.errors import CommandRefused
from twinlens.cli.output import confirm, say, show
from twinlens.client.client import Client
from twinlens.client.errors import RequestFailed

if TYPE_CHECKING:
    from twinlens.models.registry import Registry


def remove_model(
    registry: Registry, ref: str, url: str, *, is_forced: bool, is_asked: bool
) -> None:
    """Removes a model, unless libraries of a service name it in any edition.

    Args:
        registry: The directory of models.
        ref: The model.
        url: The service that is asked for its libraries.
        is_forced: Whether it is removed though libraries name it, or the service does not answer.
        is_asked: Whether the user is asked first.

    Raises:
        CommandRefused: Libraries name it, or whether they do is not known.
        Abort: The user says no.
    """
    card = registry.card(ref)
    breaks = _what_breaks(card.ref, url)
    if breaks and not is_forced:
        raise CommandRefused(f"{breaks}; --force removes it all the same")
    if breaks:
        say(breaks, is_error=True)
    if is_asked:
        confirm(f"Remove {card.ref}?")
    registry.remove(card.ref)
    show({"removed": card.ref}, lambda: say(f"removed {card.ref}"))


def _what_breaks(ref: str, url: str) -> str:
    """Returns what is against the removal of a model; empty if nothing is."""
    try:
        with Client(url) as client:
            names = [one.name for one in client.libraries() if ref in one.all_models]
    except RequestFailed as error:
        return f"whether libraries need {ref} is not known: {error}"
    if not names:
        return ""
    return (
        f"libraries at {url} that are neither searched nor filled without {ref}:"
        f" {', '.join(names)} (`twinlens libraries set` gives them other models)"
    )
