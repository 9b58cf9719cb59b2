"""Linear learning-rate schedules that Composer lacks."""

from __future__ import annotations

from composer.core import State
from composer.optim import ComposerScheduler
from composer.optim.scheduler import _convert_time


class LinearWithWarmupAndHoldScheduler(ComposerScheduler):
    """Warms up, decays linearly until ``t_max``, and stays there: ESM2's schedule (Lin et al. 2023, A.2.4).

    Composer's ``LinearWithWarmupScheduler`` refuses a ``t_max`` below the run's duration.

    Args:
        t_warmup: End of the warm-up from 0, as a time string.
        alpha_i: Multiplier of the learning rate after the warm-up.
        alpha_f: Multiplier of the learning rate from ``t_max`` on.
        t_max: End of the decay, as a time string in the unit of ``t_warmup``.
    """

    def __init__(self, t_warmup: str, alpha_i: float = 1.0, alpha_f: float = 0.0, t_max: str = "1dur") -> None:
        self.t_warmup, self.t_max = t_warmup, t_max
        self.alpha_i, self.alpha_f = alpha_i, alpha_f

    def __call__(self, state: State, ssr: float = 1.0) -> float:
        """Multiplier of the learning rate at the present time."""
        warmup, end = _convert_time(self.t_warmup, state), _convert_time(self.t_max, state, ssr=ssr)
        now: int = state.timestamp.get(warmup.unit).value
        if now < warmup.value:
            return float(self.alpha_i * now / warmup.value)
        progress = min(1.0, float((now - warmup.value) / max(1, end.value - warmup.value)))
        return self.alpha_i + progress * (self.alpha_f - self.alpha_i)


class LinearToZeroScheduler(LinearWithWarmupAndHoldScheduler):
    """Warms up, and decays linearly to zero at the end of the run (Bergsma et al. 2025, "Straight to zero").

    Args:
        t_warmup: End of the warm-up from 0, as a time string.
    """

    def __init__(self, t_warmup: str) -> None:
        super().__init__(t_warmup)
