"""Learning-rate schedules that Composer lacks, and a check of all of them before a run starts."""

from __future__ import annotations

import types
import warnings

from composer.core import State, Time, Timestamp
from composer.core.time import ensure_time
from composer.optim import ComposerScheduler
from composer.optim.scheduler import _convert_time

from plm_composer.errors import UserError, first_line


class LinearWithWarmupAndHoldScheduler(ComposerScheduler):
    """Warms up, decays linearly until ``t_max``, and stays there: ESM2's schedule (Lin et al. 2023, A.2.4).

    Composer's ``LinearWithWarmupScheduler`` refuses a ``t_max`` below the run's duration.

    Args:
        t_warmup: End of the warm-up from 0, a time string.
        alpha_i: Multiplier after the warm-up.
        alpha_f: Multiplier from ``t_max`` on.
        t_max: End of the decay, a time string in the unit of ``t_warmup``.
    """

    def __init__(self, t_warmup: str, alpha_i: float = 1.0, alpha_f: float = 0.0, t_max: str = "1dur") -> None:
        self.t_warmup, self.t_max = t_warmup, t_max
        self.alpha_i, self.alpha_f = alpha_i, alpha_f

    def __call__(self, state: State, ssr: float = 1.0) -> float:
        """The multiplier now."""
        warmup, end = _convert_time(self.t_warmup, state), _convert_time(self.t_max, state, ssr=ssr)
        now: int = state.timestamp.get(warmup.unit).value
        if now < warmup.value:
            return float(self.alpha_i * now / warmup.value)
        progress = min(1.0, float((now - warmup.value) / max(1, end.value - warmup.value)))
        return self.alpha_i + progress * (self.alpha_f - self.alpha_i)


class LinearToZeroScheduler(LinearWithWarmupAndHoldScheduler):
    """Warms up, and decays linearly to zero at the end of the run (Bergsma et al. 2025, "Straight to zero").

    Args:
        t_warmup: End of the warm-up from 0, a time string.
    """

    def __init__(self, t_warmup: str) -> None:
        super().__init__(t_warmup)


def check_scheduler(scheduler: ComposerScheduler, max_duration: int | str, batches: int | None = None) -> None:
    """Asks a schedule for its first learning rate, as the Trainer will.

    Args:
        scheduler: The schedule.
        max_duration: The run's.
        batches: Batches of an epoch; where it is None, schedules that need it are not checked.

    Raises:
        UserError: The schedule does not fit the run.
    """
    state = types.SimpleNamespace(
        max_duration=ensure_time(max_duration, "ep"),
        timestamp=Timestamp(),
        dataloader_len=None if batches is None else Time(batches, "ba"),
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # The Trainer says it again.
            scheduler(state)
    except (ValueError, TypeError, AttributeError) as error:  # a number where a time or another number should be
        raise UserError(f"scheduler: {first_line(error)}") from error
    except RuntimeError:
        if batches is not None:
            raise
