"""Growing a trained model's depth by stacking copies of its blocks.

Gong et al. 2019, "Efficient Training of BERT by Progressively Stacking".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from torch import Tensor

from plm_composer.errors import UserError
from plm_composer.model.config import ESM2Config

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_CONTACTS = "contact_head.regression.weight"


def stacked_config(config: ESM2Config, depth: int) -> ESM2Config:
    """The config of the deeper model.

    Args:
        config: Config of the shallow model.
        depth: Number of blocks of the deeper model.

    Raises:
        UserError: ``depth`` is not above the shallow model's.
    """
    if isinstance(depth, bool) or not isinstance(depth, int) or depth <= config.num_hidden_layers:
        raise UserError(
            f"model.stack_to is {depth!r}; it must be a number of layers above those of model.pretrained, "
            f"{config.num_hidden_layers}"
        )
    return dataclasses.replace(config, num_hidden_layers=depth)


def stacking_order(layers: int, depth: int) -> list[int]:
    """The source of each block of the deeper model: the whole stack repeated, then its top blocks.

    Args:
        layers: Number of blocks of the shallow model.
        depth: Number of blocks of the deeper model.
    """
    repeats, rest = divmod(depth, layers)
    return [*range(layers)] * repeats + [*range(layers - rest, layers)]


def stack(state_dict: Mapping[str, Tensor], config: ESM2Config, depth: int) -> dict[str, Tensor]:
    """The weights of the deeper model.

    The contact regression keeps its weights for the first layers, and has zeros for the new ones.

    Args:
        state_dict: State dict of the shallow model.
        config: Config of the shallow model.
        depth: Number of blocks of the deeper model.

    Raises:
        UserError: ``depth`` is not above the shallow model's.
    """
    deeper = stacked_config(config, depth)
    blocks: list[dict[str, Tensor]] = [{} for _ in range(config.num_hidden_layers)]
    stacked: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        if match := _BLOCK.fullmatch(name):
            blocks[int(match[1])][match[2]] = value
        else:
            stacked[name] = value
    for block, source in enumerate(stacking_order(config.num_hidden_layers, deeper.num_hidden_layers)):
        stacked.update((f"blocks.{block}.{name}", value.clone()) for name, value in blocks[source].items())
        if config.value_residual and block > 0 and source == 0:
            # A copy of the first block, which mixes no values, begins without those of the first block.
            stacked[f"blocks.{block}.attention.value_weight"] = stacked["embedding.weight"].new_zeros(1)
    if _CONTACTS in stacked:
        known = stacked[_CONTACTS]
        weights = known.new_zeros(1, deeper.num_hidden_layers * config.num_attention_heads)
        weights[:, : known.shape[1]] = known
        stacked[_CONTACTS] = weights
    return stacked
