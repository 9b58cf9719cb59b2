"""Writes safetensors with the usual permissions, and with an ``OSError`` if the disk is full."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

_SYSTEM_ERROR = re.compile(r"(.*) \(os error (\d+)\)")


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors as ``safetensors.torch.load_file`` and ``transformers`` read them.

    Args:
        path: The file; replaced if it exists.
        tensors: Tensors by name, contiguous and on the CPU.

    Raises:
        OSError: The file cannot be written.
    """
    path.touch()
    permissions = path.stat().st_mode  # by the umask; the library makes a new file that only the owner can read
    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:
        found = _SYSTEM_ERROR.search(str(error))
        raise OSError(int(found[2]) if found else None, found[1] if found else str(error), str(path)) from error
    path.chmod(permissions)
