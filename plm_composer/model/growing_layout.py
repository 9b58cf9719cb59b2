"""The layout of sequences that grow token by token: keys and values of earlier tokens are kept, not computed again."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_composer.model.alibi import distances
from plm_composer.model.batch_layouts import Layout
from plm_composer.model.config import ESM2Config


class GrowingLayout(Layout):
    """Sequences of one length, of which each forward pass computes the next tokens; for causal models in evaluation.

    Args:
        rows: Number of sequences.
        config: The model's config.
        dtype: Data type of the parameters; tables are at least fp32.
        device: Device of the model.
    """

    def __init__(self, rows: int, config: ESM2Config, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(config, torch.zeros(0, device=device), dtype)
        self.proteins, self._device = rows, device
        self._length, self._layer = 0, 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._convolved: list[Tensor] = []

    def take(self, tokens: int) -> None:
        """Moves on to the next tokens, before each forward pass.

        Args:
            tokens: Number of tokens that each sequence grows by.
        """
        position = torch.arange(self._length, self._length + tokens, device=self._device)
        super().__init__(self.config, position, self.dtype)
        self.is_token = torch.ones(self.proteins, tokens, dtype=torch.bool, device=self._device)
        self._length, self._layer = self._length + tokens, 0

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attends to all tokens so far; tensors are (rows, tokens, heads, head_size)."""
        keys = _grow(self._keys, self._layer, key.transpose(1, 2), 2)
        values = _grow(self._values, self._layer, value.transpose(1, 2), 2)
        self._layer += 1
        new, total = query.shape[1], keys.shape[2]
        bias = torch.full((new, total), float("-inf"), dtype=query.dtype, device=query.device).triu(total - new + 1)
        if self.slopes is not None:
            rows = distances(total, query.device, self.slopes.dtype)[total - new :]
            bias = bias - (self.slopes[:, None, None] * rows).to(query.dtype)
        attended = F.scaled_dot_product_attention(query.transpose(1, 2), keys, values, attn_mask=bias, scale=1.0)
        return attended.transpose(1, 2)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolves each token, (rows, tokens, channels), with those before it."""
        reach, new = weight.shape[1] // 2, x.shape[1]
        if self._layer == len(self._convolved):
            self._convolved.append(x.new_zeros(x.shape[0], reach, x.shape[2]))
        seen = torch.cat([self._convolved[self._layer], x], dim=1)
        self._convolved[self._layer] = seen[:, new:]
        taps = [seen[:, offset : offset + new] * weight[:, offset] for offset in range(reach + 1)]
        return torch.stack(taps).sum(0)

    def sum_per_protein(self, count: Tensor) -> Tensor:
        """Sums over the tokens of this pass, shape (rows, 1)."""
        return count.sum(-1, keepdim=True)

    def subset(self, kept: Tensor) -> tuple[Tensor, Layout]:
        """Not for sequences that grow: only training drops blocks."""
        del kept
        raise TypeError("sequences grow in evaluation, which drops no blocks")

    def _protein_bounds(self) -> tuple[Tensor, Tensor]:
        raise TypeError("the tokens of a pass are not whole proteins")


def _grow(kept: list[Tensor], layer: int, new: Tensor, dimension: int) -> Tensor:
    if layer == len(kept):
        kept.append(new)
    else:
        kept[layer] = torch.cat([kept[layer], new], dimension)
    return kept[layer]
