"""Graphs of the shipped models, built from weights that came with the packages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.models.build.lite import LITE0, LITE2, build_lite
from twinlens.models.build.phash import build_phash
from twinlens.shared.errors import ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto

_BUILDERS: dict[str, Callable[[], ModelProto]] = {
    LITE0.name: lambda: build_lite(LITE0),
    LITE2.name: lambda: build_lite(LITE2),
    "phash": build_phash,
}


def build_model(name: str) -> bytes:
    """Builds a shipped model.

    Returns:
        The ONNX file's bytes, the same at every call (with one version of onnx and protobuf).

    Raises:
        ModelNotFound: no model of this name is shipped.
    """
    if name not in _BUILDERS:
        raise ModelNotFound(f"no shipped model is named {name!r}; there are {sorted(_BUILDERS)}")
    model: bytes = _BUILDERS[name]().SerializeToString(deterministic=True)
    return model
