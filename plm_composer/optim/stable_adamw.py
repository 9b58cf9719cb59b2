"""AdamW whose steps are clipped where the second moment lags behind (Wortsman et al. 2023, arXiv 2304.13013)."""

from __future__ import annotations

import pytorch_optimizer
import torch
from torch.distributed.tensor import DTensor, Replicate


class StableAdamW(pytorch_optimizer.StableAdamW):
    """StableAdamW that also works on sharded parameters: gloo has sums over processes, but not means."""

    @staticmethod
    def get_stable_adamw_rms(grad: torch.Tensor, exp_avg_sq: torch.Tensor, eps: float = 1e-16) -> torch.Tensor:
        """Factor by which a step is too large: the root mean square of gradient over second moment, at least 1.

        Args:
            grad: Gradient of the parameter.
            exp_avg_sq: Second moment of the parameter.
            eps: Lower bound of the second moment.
        """
        if not isinstance(grad, DTensor):
            return pytorch_optimizer.StableAdamW.get_stable_adamw_rms(grad, exp_avg_sq, eps)
        total = (grad.square() / exp_avg_sq.clip(min=eps)).sum()
        assert isinstance(total, DTensor)
        total = total.redistribute(placements=[Replicate()] * total.device_mesh.ndim)
        return (total / grad.numel()).sqrt().clip(min=1.0)
