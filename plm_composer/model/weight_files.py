"""Reading PyTorch's own weight files without running what they may carry."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import torch

from plm_composer.errors import UserError


def read_torch_file(path: Path) -> dict[str, Any]:
    """Reads a file of ``torch.save`` that holds a dict of tensors, plain values and ``argparse.Namespace``.

    Raises:
        UserError: If the file is missing, cannot be read, or holds anything else.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except pickle.UnpicklingError:
        raise UserError(f"{path}: cannot be read: no PyTorch file, or it holds more than weights") from None
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read as a PyTorch file ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a dict of weights")
    return content
