"""Files of matrices, one under each name, written one by one: ``.npz`` and HDF5."""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plm_composer.errors import UserError, first_line
from plm_composer.files.atomic import check_writable, replacing

_HDF5_ERROR = re.compile("error message = '([^']*)'")
"""What HDF5 says of a failed system call, among much else."""
Write = Callable[[str, npt.NDArray[Any]], None]


@contextlib.contextmanager
def _npz(path: Path) -> Iterator[Write]:
    with zipfile.ZipFile(path, "w") as archive:

        def write(name: str, matrix: npt.NDArray[Any]) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, matrix, allow_pickle=False)  # type: ignore[no-untyped-call]

        yield write


@contextlib.contextmanager
def _hdf5(path: Path) -> Iterator[Write]:
    import h5py

    with h5py.File(path, "w") as file:
        yield file.__setitem__


_FORMATS = {".npz": _npz, ".h5": _hdf5, ".hdf5": _hdf5}


def check_matrices(path: Path, names: list[str]) -> None:
    """Checks that matrices can be written to a file under some names, before they are computed.

    Args:
        path: The file to write.
        names: Names of the matrices.

    Raises:
        UserError: The ending is unknown, the folder does not exist or cannot be written, or two names are the same, or
            one is no name of a matrix.
    """
    if path.suffix not in _FORMATS:
        raise UserError(f"{path}: the file must end in {', '.join(_FORMATS)}")
    check_writable(path)
    seen: set[str] = set()
    for name in names:
        if not name or any(part in ("", ".", "..") for part in name.split("/")):
            raise UserError(f"{path}: {name!r} is not a name that a file can hold; rename this protein")
        if name in seen:
            raise UserError(f"{path}: two proteins are named {name!r}; rename one")
        seen.add(name)
    # HDF5 makes a group of what stands before a slash.
    parents = {"/".join(name.split("/")[:count]) for name in names for count in range(1, name.count("/") + 1)}
    if path.suffix != ".npz" and (both := sorted(seen & parents)):
        raise UserError(f"{path}: the name {both[0]!r} is the beginning of another; rename it, or write .npz")


@contextlib.contextmanager
def writing_matrices(path: Path) -> Iterator[Write]:
    """Writes matrices to a file that appears whole or not at all.

    Args:
        path: The file; its ending chooses the format.

    Yields:
        A function that writes a matrix under a name.

    Raises:
        UserError: The file cannot be written.
    """
    path = path.resolve()  # replaces the target of a link, not the link
    try:
        with replacing(path) as partial, _FORMATS[path.suffix](partial) as write:
            yield write
    except OSError as error:
        told = _HDF5_ERROR.search(str(error))
        reason = told[1] if told else error.strerror or first_line(error)
        raise UserError(f"cannot write {path}: {reason}") from error
