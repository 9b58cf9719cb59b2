"""One key, ``precision``, for GPU and CPU.

On a GPU, Composer's ``amp_bf16`` is used, or ``amp_fp16``, for which Composer scales the loss (Micikevicius et al.
2018). On a CPU Composer refuses both, so the Trainer runs in fp32 and the model autocasts to bf16 by itself.
"""

from __future__ import annotations

import torch

from plm_composer.errors import UserError

PRECISIONS = ("auto", "fp32", "amp_bf16", "amp_fp16")
AUTOCAST_DTYPES = {"amp_bf16": torch.bfloat16, "amp_fp16": torch.float16}
"""Data types of matrix products, by precision; fp32 for the others."""


def check_precision(key: str, precision: str) -> None:
    """Checks the name of a precision.

    Args:
        key: Where it stands, for the message.
        precision: The name.

    Raises:
        UserError: It is none of ``PRECISIONS``.
    """
    if precision not in PRECISIONS:
        raise UserError(f"{key} is {precision!r}; choose from {', '.join(PRECISIONS)}")


def multiplies_bf16(device: str) -> bool:
    """Whether the hardware has bf16 matmuls; emulation by fp32 would be slower.

    Args:
        device: ``cpu`` or ``gpu``.
    """
    if device == "gpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve_precision(precision: str, device: str) -> str:
    """Turns ``auto`` into ``amp_bf16`` or ``fp32``.

    Raises:
        UserError: ``amp_fp16`` on a CPU, which has no fp16 matmuls.
    """
    if precision == "amp_fp16" and device == "cpu":
        raise UserError("precision is amp_fp16, which needs a GPU; use auto")
    if precision != "auto":
        return precision
    return "amp_bf16" if multiplies_bf16(device) else "fp32"


def trainer_precision(precision: str, device: str) -> str:
    """The ``precision`` of Composer's Trainer."""
    return resolve_precision(precision, device) if device == "gpu" else "fp32"


def working_dtype(precision: str, device: str) -> torch.dtype:
    """Data type of matrix products."""
    return AUTOCAST_DTYPES.get(resolve_precision(precision, device), torch.float32)


def autocast_dtype(precision: str, device: str) -> torch.dtype | None:
    """Data type of the model's own autocast; None leaves autocast to the Trainer."""
    resolved = resolve_precision(precision, device)
    return AUTOCAST_DTYPES.get(resolved) if device == "cpu" else None
