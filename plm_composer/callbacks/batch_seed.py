"""Seeds all random number generators before each batch, so that a resumed run draws what an unbroken run draws."""

from __future__ import annotations

import numpy as np
from composer import Callback, Logger, State
from composer.utils import dist, reproducibility

from plm_composer.callbacks.order import Position


class BatchSeed(Callback):
    """Makes dropout, stochastic layers and random algorithms exact across a kill and a resume.

    Composer saves the generators' states but does not restore them in mid-epoch. Here the states follow from (seed,
    batch, rank) instead, for torch on all devices, numpy and Python. Crops and masks do not need it, because they are
    pure functions (``plm_composer.data.randomness``).

    Args:
        seed: The run's seed, at least 0.
    """

    position = Position.BATCH_SEED

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """Seeds before the batch is fetched, because algorithms draw after that, before callbacks run."""
        reproducibility.seed_all(batch_seed(self.seed, int(state.timestamp.batch), dist.get_global_rank()))


def batch_seed(seed: int, batch: int, rank: int) -> int:
    """Mixes a run's seed, a batch and a rank into a seed of 32 bits, by numpy's ``SeedSequence``.

    Args:
        seed: The run's seed, at least 0.
        batch: Number of batches trained so far.
        rank: Global rank of the process.
    """
    return int(np.random.SeedSequence((seed, batch, rank)).generate_state(1)[0])
