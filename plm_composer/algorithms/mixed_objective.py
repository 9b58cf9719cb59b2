"""Makes some batches of a masked training causal ones."""

from __future__ import annotations

import math

from composer.core import State

from plm_composer.algorithms.batch_curriculum import BatchCurriculum
from plm_composer.data.batches import Batch
from plm_composer.data.objectives import make_causal


class MixedObjective(BatchCurriculum):
    """Lets a share of the batches predict the next residue, and the others the masked ones.

    ``objective: mixed`` adds it to a run. The causal batches are spread evenly, the same for every process, so that no
    optimizer step adds up two kinds of loss.

    Args:
        causal_share: Share of the batches that are causal, above 0 and below 1.
    """

    quantity = "causal"
    position = 3

    def __init__(self, causal_share: float) -> None:
        super().__init__()
        self.causal_share = causal_share

    def value(self, state: State) -> float:
        """1 for a causal batch, 0 for a masked one."""
        batch = state.timestamp.batch.value
        return math.floor((batch + 1) * self.causal_share) - math.floor(batch * self.causal_share)

    def change(self, batch: Batch, value: float) -> Batch:
        """Takes the masks out of a batch that is to be causal."""
        return make_causal(batch) if value else batch
