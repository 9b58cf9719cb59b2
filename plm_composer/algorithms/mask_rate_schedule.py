"""Changes the mask rate during the training."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from composer.core import State

from plm_composer.algorithms.batch_curriculum import BatchCurriculum
from plm_composer.algorithms.timing import check_time, progress
from plm_composer.data.batches import Batch, with_labels
from plm_composer.data.collate import Collator
from plm_composer.errors import UserError
from plm_composer.tokenizer import IGNORE_INDEX

_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda share: share,
    "cosine": lambda share: (1 - math.cos(math.pi * share)) / 2,
}


class MaskRateSchedule(BatchCurriculum):
    """Moves the mask rate from one value to another (Ankner et al. 2024; Yang et al. 2023).

    The collator masks at ``data.mask_rate``, the maximum; the schedule unmasks positions whose draw is not below the
    current rate. The result is exactly the batch that the collator would have masked at that rate.

    The model's ``token_dropout_mask_rate`` does not change: token dropout follows each protein's own observed share of
    ``<mask>``, so that the constant is one fixed factor of all embeddings, which must be the same at every rate, and in
    evaluation.

    Args:
        initial_rate: Mask rate at the start, in (0, 1].
        final_rate: Mask rate from ``t_end`` on, in (0, 1].
        t_end: Time at which ``final_rate`` is reached, such as ``0.8dur`` or ``5000ba``.
        shape: Shape of the change, ``linear`` or ``cosine``.

    Raises:
        UserError: A rate or the time is out of range, or the shape is unknown.
    """

    quantity = "mask_rate"
    draws = frozenset({"selection"})
    position = 2

    def __init__(self, initial_rate: float, final_rate: float, t_end: str = "1dur", shape: str = "linear") -> None:
        super().__init__()
        self.rates = {"initial_rate": initial_rate, "final_rate": final_rate}
        for name, rate in self.rates.items():
            if not 0 < rate <= 1:
                raise UserError(f"algorithms.mask_rate_schedule.{name} is {rate}; it must lie above 0 and at most at 1")
        check_time("algorithms.mask_rate_schedule.t_end", t_end)
        if shape not in _SHAPES:
            raise UserError(f"algorithms.mask_rate_schedule.shape is {shape!r}; choose from {', '.join(_SHAPES)}")
        self.t_end, self.shape = t_end, shape

    def bind(self, collator: Collator) -> None:
        """Checks that the collator masks at one rate, and that no rate exceeds it."""
        if collator.objective not in ("masked", "mixed"):
            raise UserError(
                "algorithms.mask_rate_schedule needs masks at one rate, and objective is "
                f"{collator.objective}; set it to null"
            )
        highest = collator.masking.mask_rate
        for name, rate in self.rates.items():
            if rate > highest:
                raise UserError(
                    f"algorithms.mask_rate_schedule.{name} is {rate}, and it can only lower data.mask_rate, which is "
                    f"{highest}; set data.mask_rate={rate}"
                )
        super().bind(collator)

    def value(self, state: State) -> float:
        """The mask rate."""
        share = _SHAPES[self.shape](progress(state, self.t_end))
        initial, final = self.rates["initial_rate"], self.rates["final_rate"]
        # Not initial + share * (final - initial), which may miss the final rate by a rounding.
        return (1 - share) * initial + share * final

    def change(self, batch: Batch, value: float) -> Batch:
        """Unmasks the positions that would not be masked at this rate."""
        return lower_mask_rate(batch, value)


def lower_mask_rate(batch: Batch, rate: float) -> Batch:
    """Makes the batch that is masked at a lower rate.

    Args:
        batch: Batch with ``selection``; it is not changed.
        rate: The new mask rate, at most that of the batch.
    """
    labels = batch["labels"]
    keep = batch["selection"] < rate
    back = (labels != IGNORE_INDEX) & ~keep
    input_ids = torch.where(back, labels, batch["input_ids"])
    return with_labels({**batch, "input_ids": input_ids}, torch.where(keep, labels, IGNORE_INDEX))
