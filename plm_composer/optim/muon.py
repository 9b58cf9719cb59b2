"""Muon and NorMuon for the hidden matrices, AdamW for everything else.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; NorMuon (Li et al. 2025, https://arxiv.org/abs/2510.05491)
also divides each row of an update by its own running size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytorch_optimizer
import torch
from pytorch_optimizer.optimizer.muon.base import MuonBase, get_adjusted_lr
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from plm_composer.errors import UserError
from plm_composer.model.esm2 import ESM2Attention, ESM2Block, ESM2FeedForward, ESM2Head

if TYPE_CHECKING:
    from plm_composer.config.schema import TrainConfig


class _FusedMatrices(MuonBase):
    """What lets Muon update weights that hold several matrices; the group's option ``fused`` is their number.

    Query, key and value projections are one weight, (3 * hidden, hidden), and so are the two of a gate. If they were
    orthogonalised as one matrix, the largest would decide how far the others move; Jordan et al. therefore
    orthogonalise each on its own, and so does this.

    The library can compile its steps. That is not used: each group, and in it each shape, would be a graph of all its
    tensors, compiled during the first step, and most of a step is matrix products, which would stay what they are.
    """

    @staticmethod
    def _orthogonalize(group: dict[str, Any], updates: list[Tensor]) -> list[Tensor]:
        """Replaces the library's method: computes the polar factors of the updates part by part."""
        parts = group.get("fused", 1)
        if parts == 1:
            return MuonBase._orthogonalize(group, updates)
        if len(updates) > 1 and isinstance(updates[0], DTensor):
            # One whole matrix at a time, as the library does.
            return [_FusedMatrices._orthogonalize(group, [update])[0] for update in updates]
        wholes = [update.full_tensor() if isinstance(update, DTensor) else update for update in updates]
        pieces = [piece for whole in wholes for piece in whole.chunk(parts)]
        done = MuonBase._orthogonalize(group, pieces)
        # The library scales by the shape of the whole weight; this corrects it to the shape of a part.
        adjusted = group["use_adjusted_lr"]
        scale = get_adjusted_lr(1.0, pieces[0].shape, adjusted) / get_adjusted_lr(1.0, wholes[0].shape, adjusted)
        return [
            _distribute_like(torch.cat(done[parts * index : parts * (index + 1)]) * scale, update)
            for index, update in enumerate(updates)
        ]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state, also from torch's sharded checkpoints, which convert tuples to lists."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            if "ns_coeffs" in group:
                group["ns_coeffs"] = [tuple(coefficients) for coefficients in group["ns_coeffs"]]


class Muon(_FusedMatrices, pytorch_optimizer.Muon):
    """Muon, with every matrix of a fused weight orthogonalised on its own."""


class NorMuon(_FusedMatrices, pytorch_optimizer.NorMuon):
    """NorMuon, with every matrix of a fused weight orthogonalised on its own, and the norm of the weight kept."""


def muon_groups(model: nn.Module, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Splits an ESM2's trainable parameters.

    Muon takes the matrices between hidden states: those of the blocks, and the head's dense layer. AdamW takes token
    tables, convolutions along one channel, norms and biases. Norms and biases do not decay.

    Args:
        model: The model.
        arguments: Arguments of ``Muon``, from the YAML.

    Returns:
        The groups that are not empty: torch's sharded checkpoints cannot distinguish empty ones.
    """
    modules = list(model.modules())
    fused: dict[int, list[Tensor]] = {3: [], 2: []}
    for module in modules:
        if isinstance(module, ESM2Attention):
            fused[3].append(module.qkv.weight)
        elif isinstance(module, ESM2FeedForward) and module.up.out_features == 2 * module.down.in_features:
            fused[2].append(module.up.weight)
    within: list[Tensor] = [p for module in modules if isinstance(module, ESM2Block) for p in module.parameters()]
    within += [module.dense.weight for module in modules if isinstance(module, ESM2Head)]
    fused_ids = {id(p) for several in fused.values() for p in several}
    hidden_ids = {id(p) for p in within if p.ndim == 2} - fused_ids
    trainable = [p for p in model.parameters() if p.requires_grad]
    rest = [p for p in trainable if id(p) not in hidden_ids | fused_ids]
    decay, table_decay = arguments.get("weight_decay", 0.0), arguments.get("adamw_wd", 0.0)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if id(p) in hidden_ids], "use_muon": True, "weight_decay": decay},
        *(
            {
                "params": [p for p in several if p.requires_grad],
                "use_muon": True,
                "weight_decay": decay,
                "fused": parts,
            }
            for parts, several in fused.items()
        ),
        {"params": [p for p in rest if p.ndim >= 2], "use_muon": False, "weight_decay": table_decay},
        {"params": [p for p in rest if p.ndim < 2], "use_muon": False, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def muon_states(shape: torch.Size, group: Mapping[str, Any]) -> int:
    """Number of fp32 values for a parameter: one momentum with Muon, two moments with AdamW."""
    return (1 if group["use_muon"] else 2) * math.prod(shape)


def check_normuon(config: TrainConfig) -> None:
    """Refuses settings with which NorMuon does not work.

    Raises:
        UserError: The run is sharded.
    """
    if config.fsdp_config is not None:
        raise UserError(
            "optimizer.name: 'normuon' is refused with fsdp_config: it needs the norms of whole matrices, and FSDP2 "
            "gives each process a part; train with DDP, or choose muon"
        )


def normuon_states(shape: torch.Size, group: Mapping[str, Any]) -> int:
    """Number of fp32 values for a parameter: as for Muon, and one for each row."""
    return muon_states(shape, group) + (shape[0] if group["use_muon"] else 0)


def _distribute_like(whole: Tensor, like: Tensor) -> Tensor:
    """Shards a tensor that every process has, as ``like`` is sharded."""
    if not isinstance(like, DTensor):
        return whole
    replicated = DTensor.from_local(whole, like.device_mesh, [Replicate()] * like.device_mesh.ndim, run_check=False)
    return replicated.redistribute(placements=like.placements)
