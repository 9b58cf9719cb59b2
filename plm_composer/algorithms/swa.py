"""Stochastic weight averaging, with checks of where it works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from composer.algorithms import SWA
from composer.core import Time
from composer.utils import dist

from plm_composer.errors import UserError

if TYPE_CHECKING:
    from plm_composer.config.schema import TrainConfig

_START, _END = "0.7dur", "0.97dur"


class StochasticWeightAveraging(SWA):
    """Composer's SWA (Izmailov et al. 2018): weights of the last part of the run, averaged with equal shares.

    At ``swa_end`` the average replaces the weights, and training continues from there; evaluations before it are of the
    trained weights.

    Args:
        update_interval: Batches between two updates of the average, such as ``100ba``.
        swa_start: Time at which averaging begins, a share of the run.
        swa_end: Time at which the average replaces the weights, a share of the run.

    Raises:
        UserError: ``update_interval`` is not in batches, or a time is not a share of the run.
    """

    def __init__(self, update_interval: str, swa_start: str = _START, swa_end: str = _END) -> None:
        for name, value, unit, example in (
            ("update_interval", update_interval, "ba", "100ba"),
            ("swa_start", swa_start, "dur", _START),
            ("swa_end", swa_end, "dur", _END),
        ):
            try:
                given = Time.from_timestring(value).unit.value
            except (ValueError, TypeError, RuntimeError):
                given = None
            if given != unit:
                raise UserError(f"algorithms.swa.{name} is {value!r}; write it like {example}")
        super().__init__(swa_start, swa_end, update_interval)


def check_swa(arguments: Mapping[str, Any], config: TrainConfig) -> None:
    """Refuses SWA where it does not work.

    Raises:
        UserError: The run is sharded or has several processes.
    """
    if config.fsdp_config is not None:
        raise UserError("algorithms.swa: Composer's version fails under FSDP2; leave out fsdp_config to train with DDP")
    if dist.get_world_size() > 1:
        raise UserError(
            "algorithms.swa: its checkpoints cannot be resumed on several processes, since it averages DDP's module; "
            "use algorithms.ema"
        )
    if "ema" in config.algorithms and config.algorithms["ema"] is not None:
        raise UserError("algorithms.swa replaces the weights that algorithms.ema averages; use one of them")
