"""Small models and batches that the tests of the model share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from plm_composer.data.batches import pack, pad
from plm_composer.model.attention import BACKENDS, PackedProteins
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.tokenizer import CLS_ID, EOS_ID, MASK_ID

SMALL = ESM2Config(num_hidden_layers=3, hidden_size=32, num_attention_heads=4, intermediate_size=128)
VARIANTS: dict[str, dict[str, Any]] = {
    "swiglu": {"feed_forward": "swiglu", "intermediate_size": 84},
    "rmsnorm": {"normalization": "rmsnorm"},
    "qk_norm": {"qk_norm": True},
    "qk_norm, rmsnorm": {"qk_norm": True, "normalization": "rmsnorm"},
    "alibi": {"position_embedding_type": "alibi"},
    "alibi, 3 heads, qk_norm": {
        "position_embedding_type": "alibi",
        "num_attention_heads": 3,
        "attention_head_size": 7,
        "qk_norm": True,
    },
    "convolution": {"short_convolution": 5},
    "no biases": {"qkv_bias": False, "intermediate_bias": False, "output_bias": False, "norm_bias": False},
    "wide heads": {"attention_head_size": 10},
    "scales": {"embedding_scale": 3.0, "residual_scale": 0.4, "token_dropout_mask_rate": 0.25},
    "layer drop": {"layer_drop": 0.6},
    "z-loss": {"z_loss": 0.01},
    "causal": {"causal": True, "token_dropout": False},
    "causal, alibi, convolution": {"causal": True, "position_embedding_type": "alibi", "short_convolution": 5},
    "mixed": {"mixed": True},
    "value residual": {"value_residual": True},
    "embedding residual": {"embedding_residual": True},
    "both residuals, causal, qk_norm": {
        "value_residual": True,
        "embedding_residual": True,
        "causal": True,
        "qk_norm": True,
        "token_dropout": False,
    },
    "scaled start": {"initializer_residual_scaling": True},
}
"""What each makes of ``SMALL``: every field of the config that changes the architecture, at least once."""
LENGTHS = (17, 40, 3, 29)


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Gives every parameter, norms and biases included, a value of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scales = ("norm" in name.lower() and name.endswith("weight")) or name.endswith("stream_weights")
            center = 1.0 if scales else 0.0
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(center + 0.15 * noise)


def make_batch(lengths: tuple[int, ...] = LENGTHS, seed: int = 0, mask_rate: float = 0.3) -> dict[str, Any]:
    """A padded and a packed form of the same random proteins, some residues masked; the third protein has no mask."""
    generator = torch.Generator().manual_seed(seed)
    proteins, labels = [], []
    for number, length in enumerate(lengths):
        ids = torch.randint(4, 24, (length,), generator=generator)
        ids[0] = CLS_ID
        ids[-1] = EOS_ID
        chosen = torch.rand(length, generator=generator) < (0 if number == 2 else mask_rate)
        chosen[0] = chosen[-1] = False
        labels.append(torch.where(chosen, ids, -100))
        proteins.append(torch.where(chosen, MASK_ID, ids))
    ids = torch.cat(proteins).numpy(), torch.cat(labels).numpy()
    padded = pad(*(x.copy() for x in ids), np.array(lengths))
    # As transformers has it.
    return {
        "padded": padded | {"attention_mask": padded["attention_mask"].long()},
        "packed": pack(*ids, np.array(lengths)),
    }


def inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """What the model itself takes of a batch."""
    names = ("input_ids", "cu_seqlens", "max_seqlen") if "cu_seqlens" in batch else ("input_ids", "attention_mask")
    return {name: batch[name] for name in names}


def make_model(config: ESM2Config = SMALL, dtype: torch.dtype = torch.float32, seed: int = 0) -> ESM2:
    """A model with nothing left at its initial value."""
    model = ESM2(config)
    randomise(model, seed)
    return model.to(dtype).eval()


def attend(
    backend: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    slopes: Tensor | None = None,
    *,
    causal: bool = False,
) -> Tensor:
    """Attention by a backend of a name."""
    proteins = PackedProteins(cu_seqlens, max_seqlen, query.shape[1], slopes, causal)
    return BACKENDS[backend](query, key, value, proteins)


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Asserts that two tensors agree to an absolute tolerance, shapes and dtypes included."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)
