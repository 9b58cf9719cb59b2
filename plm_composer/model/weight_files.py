"""Reading weights and JSON, PyTorch's own files without running what they may carry."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from plm_composer.errors import UserError
from plm_composer.unpickling import plain_values_only


def read_torch_file(path: Path, trust: bool = False) -> dict[str, Any]:
    """Reads a file of ``torch.save``: a Composer checkpoint, or the weights of fair-esm or transformers.

    Args:
        path: The file.
        trust: Unpickle whatever it holds, code included.

    Raises:
        UserError: If the file is missing, damaged, or holds anything but a dict of tensors and plain values.
    """
    try:
        with plain_values_only(path, trust):
            content = torch.load(path, map_location="cpu", weights_only=not trust)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, LookupError) as error:
        raise UserError(f"{path}: not a PyTorch file, or a damaged one") from error
    except (ImportError, AttributeError) as error:
        raise UserError(f"{path}: holds objects of a program that is not installed here: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a dict of weights")
    return content


def read_weights(path: Path, trust: bool = False) -> dict[str, Tensor]:
    """Reads safetensors, a file of ``torch.save``, or the index of several parts.

    Args:
        path: The file; one that ends in ``.json`` is an index.
        trust: As for ``read_torch_file``.

    Raises:
        UserError: If a file is missing or unreadable.
    """
    if path.suffix == ".json":
        weights: dict[str, Tensor] = {}
        for part in sorted(set(read_json(path).get("weight_map", {}).values())):
            weights |= read_weights(path.with_name(part), trust)
        return weights
    if path.suffix != ".safetensors":
        return read_torch_file(path, trust)
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, though its index names it") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error})") from None


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from the folder of a saved model.

    Raises:
        UserError: If the file is missing, unreadable, or holds anything else.
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
