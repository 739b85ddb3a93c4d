"""Graphs of the shipped models, built from weights that came with the packages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.models.build.lite import LITE0, LITE2, build_lite
from twinlens.models.build.phash import build_phash
from twinlens.shared.errors import ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto

    from twinlens.models.build.lite import LiteVariant


def build_model(ref: str) -> bytes:
    """Builds a shipped model, named as name@version.

    Returns:
        The ONNX file's bytes, the same at every call (with one version of onnx and protobuf).

    Raises:
        ModelNotFound: No model of this name is shipped.
    """
    if ref not in _BUILDERS:
        raise ModelNotFound(f"no shipped model is named {ref!r}; there are {sorted(_BUILDERS)}")
    return _BUILDERS[ref]()


def _bytes_of(model: ModelProto) -> bytes:
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _lite(variant: LiteVariant) -> dict[str, Callable[[], bytes]]:
    def build() -> bytes:
        return _bytes_of(build_lite(variant))

    return {
        f"{variant.name}@1": build,
        f"{variant.name}@1-int8": lambda: _int8(variant.name, build()),
    }


def _int8(name: str, model: bytes) -> bytes:
    # Imported here: it needs this package, and onnxruntime's quantiser takes 0.1 s.
    from twinlens.models.build.int8 import build_int8  # noqa: PLC0415

    return build_int8(name, model)


_BUILDERS: dict[str, Callable[[], bytes]] = {
    **_lite(LITE0),
    **_lite(LITE2),
    "phash@1": lambda: _bytes_of(build_phash()),
}
