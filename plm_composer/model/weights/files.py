"""Reads weights and JSON, PyTorch's files without running code in them; and writes PyTorch's files."""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from plm_composer.errors import UserError
from plm_composer.files.atomic import is_full
from plm_composer.files.weights_only import plain_values_only


def read_torch_file(path: Path, trust: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Reads a file of ``torch.save``: a Composer checkpoint, or the weights of fair-esm or transformers.

    Args:
        path: The file.
        trust: Whether to unpickle anything, code included.
        device: Device of the tensors; ``meta`` reads only their shapes.

    Raises:
        UserError: The file is missing, damaged, or holds anything but a dict of tensors and plain values.
    """
    try:
        with plain_values_only(path, trust):
            content = torch.load(path, map_location=device, weights_only=not trust)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, LookupError) as error:
        raise UserError(f"{path}: not a PyTorch file, or a damaged one") from error
    except (ImportError, AttributeError) as error:
        raise UserError(f"{path}: holds objects of a program that is not installed here: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a dict of weights")
    return content


def write_torch_file(path: Path, content: dict[str, Any]) -> None:
    """Writes a file of ``torch.save``.

    Raises:
        OSError: The disk is full, which torch itself does not say, or the file cannot be written.
    """
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        if is_full(path.parent, error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def read_weights(path: Path, trust: bool = False, wanted: Callable[[str], bool] | None = None) -> dict[str, Tensor]:
    """Reads safetensors, a file of ``torch.save``, or the index of several parts.

    Args:
        path: The file; a name that ends in ``.json`` is an index.
        trust: As for ``read_torch_file``.
        wanted: Function: name of a weight -> whether to read it; None reads all.

    Raises:
        UserError: A file is missing or unreadable.
    """
    if path.suffix == ".json":
        weights: dict[str, Tensor] = {}
        for part in _parts(path):
            weights |= read_weights(part, trust, wanted)
        return weights
    if path.suffix != ".safetensors":
        content = read_torch_file(path, trust)
        return {name: value for name, value in content.items() if wanted is None or wanted(name)}
    return _read_safetensors(path, lambda file, name: file.get_tensor(name), wanted)


def read_shapes(path: Path, trust: bool = False) -> dict[str, Tensor]:
    """Reads the names and shapes of the weights that ``read_weights`` reads, as tensors on the ``meta`` device.

    Raises:
        UserError: A file is missing or unreadable.
    """
    if path.suffix == ".json":
        shapes: dict[str, Tensor] = {}
        for part in _parts(path):
            shapes |= read_shapes(part, trust)
        return shapes
    if path.suffix != ".safetensors":
        return read_torch_file(path, trust, device="meta")
    return _read_safetensors(path, lambda file, name: torch.empty(file.get_slice(name).get_shape(), device="meta"))


def _parts(index: Path) -> list[Path]:
    return [index.with_name(part) for part in sorted(set(read_json(index).get("weight_map", {}).values()))]


def _read_safetensors(
    path: Path, read: Callable[[Any, str], Tensor], wanted: Callable[[str], bool] | None = None
) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            return {name: read(file, name) for name in file.keys() if wanted is None or wanted(name)}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, though its index names it") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error})") from None


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from the folder of a saved model.

    Raises:
        UserError: The file is missing, unreadable, or not a JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the folder of a saved EsmForMaskedLM") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not an object")
    return content
