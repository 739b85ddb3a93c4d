"""Reads the tensors of an old-style PyTorch checkpoint with numpy alone.

Such a file (before PyTorch 1.6 made it a ZIP) is a row of pickles (magic number, protocol
version, system facts, the tensors, the storage keys) and then each storage as a count of
elements and its raw bytes.

Source of the form: torch/serialization.py, `_legacy_load`.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001

_Number = np.float32 | np.int64
Tensors = dict[str, NDArray[_Number]]


@dataclass(frozen=True)
class _StorageType:
    dtype: np.dtype[_Number]


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype[_Number]


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(
    storage: _Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *_grad_and_hooks: object,
) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)


# A pickle may name any function of any module and have it called. These four names are all that
# the two checkpoints need; every other one is refused before it is imported.
_ALLOWED: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch", "FloatStorage"): _StorageType(np.dtype("<f4")),
    ("torch", "LongStorage"): _StorageType(np.dtype("<i8")),
}


class _TensorUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> object:
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"the checkpoint names {module_name}.{global_name}, which weights do not need",
            ) from None

    def persistent_load(self, pid: tuple[str, _StorageType, str, str, int, object]) -> _Storage:
        _kind, storage_type, key, _device, _n_elements, _view = pid
        return _Storage(key, storage_type.dtype)


def read_checkpoint(path: Path) -> Tensors:
    """Reads every tensor of a checkpoint, by name.

    Args:
        path: A checkpoint in the form that PyTorch wrote before 1.6.

    Returns:
        float32 or int64 arrays, by the names of the state dictionary.

    Raises:
        pickle.UnpicklingError: The file is no such checkpoint, or names more than tensors.
    """
    with path.open("rb") as stream:
        if _unpickle(stream) != MAGIC_NUMBER or _unpickle(stream) != PROTOCOL_VERSION:
            raise pickle.UnpicklingError(f"{path.name} is not an old-style PyTorch checkpoint")
        _unpickle(stream)  # sizes of the writer's C types
        tensors: dict[str, _Tensor] = _unpickle(stream)
        keys: list[str] = _unpickle(stream)
        dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in tensors.values()}
        storages = {key: _read_storage(stream, dtypes[key]) for key in keys}
    return {name: _view(tensor, storages) for name, tensor in tensors.items()}


def _unpickle(stream: IO[bytes]) -> Any:
    return _TensorUnpickler(stream).load()


def _read_storage(stream: IO[bytes], dtype: np.dtype[_Number]) -> NDArray[_Number]:
    n_elements = int.from_bytes(stream.read(8), "little")
    return np.frombuffer(stream.read(n_elements * dtype.itemsize), dtype)


def _view(tensor: _Tensor, storages: Tensors) -> NDArray[_Number]:
    storage = storages[tensor.storage.key][tensor.offset :]
    # Weights that came from TensorFlow keep its layout (height, width, in, out): strides matter.
    strides = tuple(step * storage.itemsize for step in tensor.strides)
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    if last >= storage.size:
        raise pickle.UnpicklingError("a tensor reaches past the end of its storage")
    return np.lib.stride_tricks.as_strided(storage, tensor.shape, strides, writeable=False)
