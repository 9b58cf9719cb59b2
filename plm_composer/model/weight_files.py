"""Reading PyTorch's own files without running what they may carry."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

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
