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
    f"{LITE0.name}@1": lambda: build_lite(LITE0),
    f"{LITE2.name}@1": lambda: build_lite(LITE2),
    "phash@1": build_phash,
}


def build_model(ref: str) -> bytes:
    """Builds a shipped model, named as name@version.

    Returns:
        The ONNX file's bytes, the same at every call (with one version of onnx and protobuf).

    Raises:
        ModelNotFound: no model of this name is shipped.
    """
    if ref not in _BUILDERS:
        raise ModelNotFound(f"no shipped model is named {ref!r}; there are {sorted(_BUILDERS)}")
    model: bytes = _BUILDERS[ref]().SerializeToString(deterministic=True)
    return model
