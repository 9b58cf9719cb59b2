"""Reading PyTorch's own files without running what they may carry."""

from __future__ import annotations

import argparse
import datetime
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plm_composer.errors import UserError

# What the files hold beside tensors: fair-esm's config, and in Composer's checkpoints clocks and the states of random
# generators. Naming them keeps torch from unpickling anything else, which could run code.
_PLAIN_TYPES: list[Any] = [
    argparse.Namespace,
    datetime.timedelta,
    np.ndarray,
    np.dtype,
    type(np.dtype(np.uint32)),
    np.array(0).__reduce__()[0],  # numpy's own `_reconstruct`, which moved between its versions
    torch.torch_version.TorchVersion,
]


def read_torch_file(path: Path) -> dict[str, Any]:
    """Reads a file of ``torch.save``: a Composer checkpoint, or the weights of fair-esm or transformers.

    Raises:
        UserError: If the file is missing, damaged, or holds anything but a dict of tensors and plain values.
    """
    try:
        with torch.serialization.safe_globals(_PLAIN_TYPES):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a PyTorch file, a damaged one, or one that holds more than weights") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a dict of weights")
    return content
