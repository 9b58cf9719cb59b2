"""Seeds every random number generator anew for each batch, so that a resumed run draws what an unbroken one draws."""

from __future__ import annotations

import numpy as np
from composer import Callback, Logger, State
from composer.utils import dist, reproducibility

from plm_composer.callbacks.order import Position


class BatchSeed(Callback):
    """Makes dropout, stochastic layers and algorithms that draw numbers exact across a kill and a resume.

    Composer saves the generators' states but does not bring them back in mid-epoch. Here their states follow from
    (seed, batch, rank) instead, for torch on all devices, numpy and Python. Crops and masks need none of this: they
    are pure functions (``plm_composer.data.randomness``).

    Args:
        seed: The run's seed.
    """

    position = Position.BATCH_SEED

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """Seeds before the batch is fetched: algorithms, which draw once it is there, run before callbacks."""
        del logger
        reproducibility.seed_all(batch_seed(self.seed, int(state.timestamp.batch), dist.get_global_rank()))


def batch_seed(seed: int, batch: int, rank: int) -> int:
    """Mixes a run's seed, a batch and a rank into a seed of 32 bits, by numpy's ``SeedSequence``.

    Args:
        seed: The run's seed, at least 0.
        batch: Batches trained so far.
        rank: The process's global rank.
    """
    return int(np.random.SeedSequence((seed, batch, rank)).generate_state(1)[0])
