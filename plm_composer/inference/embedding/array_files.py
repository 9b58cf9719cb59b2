"""Writes ``.npz`` and ``.safetensors`` files array by array and piece by piece, whatever their size."""

from __future__ import annotations

import dataclasses
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_SAFETENSORS_NAMES = {"float32": "F32", "float16": "F16", "int64": "I64", "uint8": "U8"}
_ALIGNMENT = 8
"""Bytes; safetensors' data starts at a multiple of it."""


@dataclasses.dataclass(frozen=True)
class ArrayStream:
    """An array that is made piece by piece.

    Args:
        dtype: Its data type.
        shape: Its whole shape.
        pieces: Makes its pieces, from the first row to the last.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[Array]]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return self.dtype.itemsize * math.prod(self.shape)

    def data(self) -> Iterator[memoryview]:
        """The bytes of each piece, in C order, little endian."""
        for piece in self.pieces():
            array = np.ascontiguousarray(piece, dtype=self.dtype.newbyteorder("<"))
            if array.size:
                yield array.data.cast("B")


def whole(array: Array) -> ArrayStream:
    """An array in memory as a stream of one piece."""
    return ArrayStream(array.dtype, array.shape, lambda: iter([array]))


def write_npz(path: Path, arrays: Mapping[str, ArrayStream]) -> None:
    """Writes arrays as ``numpy.load`` reads them.

    Args:
        path: The file; replaced if it exists.
        arrays: Arrays by name.

    Raises:
        OSError: The file cannot be written.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            header = {"descr": array.dtype.newbyteorder("<").str, "fortran_order": False, "shape": array.shape}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_2_0(member, header)  # type: ignore[no-untyped-call]
                for data in array.data():
                    member.write(data)


def write_safetensors(path: Path, arrays: Mapping[str, ArrayStream], metadata: Mapping[str, str]) -> None:
    """Writes arrays as ``safetensors`` reads them: a header's length, a header in JSON, and the data.

    Args:
        path: The file; replaced if it exists.
        arrays: Arrays by name.
        metadata: Texts that the header holds.

    Raises:
        OSError: The file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name, array in arrays.items():
        stop = start + array.nbytes
        header[name] = {
            "dtype": _SAFETENSORS_NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            for data in array.data():
                file.write(data)


def read_safetensors(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """Reads some arrays of a file into memory; those that it does not have are left out.

    Args:
        path: The file.
        names: Names of the arrays.
    """
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        present = set(file.keys())
        return {name: file.get_tensor(name) for name in names if name in present}
