"""Libraries: which models they have, and how much each counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.shared.errors import FieldError, LibraryNotEmpty, LibraryNotFound, ValidationFailed
from twinlens.shared.messages import Library

if TYPE_CHECKING:
    from twinlens.api.gateway import Gateway
    from twinlens.api.schemas import LibraryPlan


def plan_library(gateway: Gateway, name: str, plan: LibraryPlan) -> tuple[Library, bool]:
    """Creates a library, or changes what its plan says otherwise.

    Weights count from the next search on. Models are what the stored pictures were embedded with,
    so they can be changed only while there are none.

    Returns:
        The library, and if it is new.

    Raises:
        ModelNotFound: There is no such model, or there are several versions of it.
        ValidationFailed: A model is named twice, or a weight is of a model that is not named.
        LibraryNotEmpty: The models are others than those of the images that it holds.
    """
    found = [gateway.catalog.model(ref) for ref in plan.models]
    names = [model.name for model in found]
    if len(set(names)) < len(names):
        raise _bad_field("/models", "A model is named twice; a library has one version of each.")
    for unknown in plan.weights.keys() - set(names):
        raise _bad_field(f"/weights/{unknown}", "It is no model of this library.")
    library = Library(name=name, models=[model.ref for model in found], weights=plan.weights)
    try:
        before = gateway.catalog.library(name)
    except LibraryNotFound:
        gateway.catalog.put_library(library)
        return library, True
    if set(before.models) != set(library.models) and gateway.catalog.count(name):
        raise LibraryNotEmpty(
            f"Library {name!r} holds images of the models {', '.join(before.models)}; index them"
            " into a library of another name, or remove them first."
        )
    gateway.catalog.put_library(library)
    return library, False


def _bad_field(location: str, message: str) -> ValidationFailed:
    return ValidationFailed(
        "The library's plan is not valid.", [FieldError(location=location, message=message)]
    )
