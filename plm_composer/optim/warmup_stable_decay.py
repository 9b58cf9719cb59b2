"""A learning-rate schedule: a warm-up, a constant rate, and a decay at the end."""

from __future__ import annotations

import math
from collections.abc import Callable

from composer.core import State, Time
from composer.optim import ComposerScheduler
from composer.optim.scheduler import _convert_time

_DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1.0 - progress,
    "one_minus_sqrt": lambda progress: 1.0 - math.sqrt(progress),
    "cosine": lambda progress: (1.0 + math.cos(math.pi * progress)) / 2,
}
"""Functions: share of the decay that has passed -> share of the learning rate that is left."""


class WarmupStableDecayScheduler(ComposerScheduler):
    """Warms up, stays, and decays to ``alpha_f`` at the end of the run (Hu et al. 2024, MiniCPM, arXiv 2404.06395).

    Hägele et al. 2024 (arXiv 2405.18392) propose ``one_minus_sqrt`` and a decay of a fifth of the run. The end is the
    current ``max_duration``: if it changes, the decay moves with it.

    Args:
        t_warmup: End of the warm-up from 0, a time string.
        t_decay: Length of the decay, a time string in the unit of ``t_warmup``. It begins no earlier than the warm-up
            ends.
        decay: Shape of the decay: ``linear``, ``one_minus_sqrt`` or ``cosine``.
        alpha_f: Multiplier of the learning rate at the end.
    """

    def __init__(
        self, t_warmup: str, t_decay: str = "0.2dur", decay: str = "one_minus_sqrt", alpha_f: float = 0.0
    ) -> None:
        if decay not in _DECAYS:
            raise ValueError(f"decay is {decay!r}; choose from {', '.join(_DECAYS)}")
        if Time.from_input(t_decay, "ba").value <= 0:
            raise ValueError(f"t_decay is {t_decay!r}; it must be above 0; for none choose constant_with_warmup")
        self.t_warmup, self.t_decay, self.decay, self.alpha_f = t_warmup, t_decay, decay, alpha_f

    def __call__(self, state: State, ssr: float = 1.0) -> float:
        """The current multiplier of the learning rate."""
        warmup, length = _convert_time(self.t_warmup, state), _convert_time(self.t_decay, state, ssr=ssr)
        end = _convert_time("1dur", state, ssr=ssr)
        now: int = state.timestamp.get(end.unit).value
        if now < warmup.value:
            return float(now / warmup.value)
        start = max(warmup.value, end.value - length.value)
        progress = min(1.0, max(0.0, (now - start) / max(1, end.value - start)))
        return self.alpha_f + (1.0 - self.alpha_f) * _DECAYS[self.decay](progress)
