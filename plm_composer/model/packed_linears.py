"""Linear layers whose weights are laid out once for oneDNN's products, for many batches without gradients on a CPU.

Torch calls MKL in fp32, and in bf16 it converts and lays out the weights for each batch anew.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from plm_composer.hardware.precision import multiplies_bf16

_DTYPES = (torch.float32, torch.bfloat16)


@contextlib.contextmanager
def packed_linears(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Computes the linear layers of a model's blocks with weights laid out beforehand; elsewhere than on a CPU as ever.

    The copies take as much memory as the weights, or half of it in bf16.

    Args:
        model: An ESM2 in fp32 whose weights do not change meanwhile.
        dtype: Data type of the products: fp32, or bf16 under autocast.
    """
    layers = [layer for block in model.blocks for layer in block.modules() if type(layer) is nn.Linear]  # type: ignore[union-attr]
    layers = layers if dtype in _DTYPES and all(_can_pack(layer, dtype) for layer in layers) else []
    with torch.inference_mode():
        for layer in layers:
            weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(dtype))
            bias = None if layer.bias is None else layer.bias.detach().to(dtype)
            vars(layer)["forward"] = functools.partial(_multiply, weight, bias)
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _can_pack(layer: nn.Linear, dtype: torch.dtype) -> bool:
    return (
        layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
        and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        and (dtype == torch.float32 or multiplies_bf16("cpu"))
    )


def _multiply(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    dtype = weight.dtype
    return torch.ops.mkldnn._linear_pointwise(x.to(dtype), weight, bias, "none", [], "")
