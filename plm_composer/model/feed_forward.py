"""The feed-forward of a block."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from plm_composer.model.config import ESM2Config


def swiglu(x: Tensor) -> Tensor:
    """Gates the second half of the last dimension by the SiLU of the first (Shazeer 2020), halving it."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "swiglu": swiglu}
"""What stands between the two linear layers, by ``ESM2Config.feed_forward``; ESM2's GELU is exact."""


class ESM2FeedForward(nn.Module):
    """Two linear layers with an activation between them; a gated one takes both its halves from the first."""

    def __init__(self, config: ESM2Config) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.feed_forward]
        self.up = nn.Linear(config.hidden_size, config.up_size, bias=config.intermediate_bias)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.output_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms each token on its own, shape (..., hidden_size)."""
        down: Tensor = self.down(self.activation(self.up(x)))
        return down
