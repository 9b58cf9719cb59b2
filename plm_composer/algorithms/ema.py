"""An exponential moving average of the weights, which is evaluated, saved and exported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from composer.algorithms import EMA
from composer.core import Algorithm, Event, State, Time
from composer.loggers import Logger
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from plm_composer.errors import UserError

if TYPE_CHECKING:
    from plm_composer.config.schema import TrainConfig

_DDP_PREFIX = "module."


class ExponentialMovingAverage(EMA):
    """Composer's EMA of the weights (Polyak and Juditsky 1992), with its gaps closed.

    Evaluations, checkpoints and the export hold the average, and checkpoints also the trained weights. In Composer's
    version the last evaluation of a training restores the trained weights before the export, a checkpoint on a signal
    holds the trained weights, and ``smoothing`` without ``half_life`` is an ``AttributeError``.

    Args:
        half_life: Batches after which a weight's share in the average has halved, such as ``1000ba``, which is the
            default if ``smoothing`` is not given.
        smoothing: Share of itself that the average keeps at each update, between 0 and 1, instead of ``half_life``.
        ema_start: Time at which averaging begins: a share of the run (``0.5dur``), batches or epochs.
        update_interval: Batches between two updates, such as ``10ba``.

    Raises:
        UserError: A time is in epochs, a value is out of range, or both ``half_life`` and ``smoothing`` are given.
    """

    def __init__(
        self,
        half_life: str | None = None,
        smoothing: float | None = None,
        ema_start: str = "0.0dur",
        update_interval: str = "1ba",
    ) -> None:
        if half_life is not None and smoothing is not None:
            raise UserError("algorithms.ema: half_life and smoothing exclude each other; give one")
        if smoothing is None and half_life is None:
            half_life = "1000ba"
        if smoothing is not None and not 0 < smoothing < 1:
            raise UserError(f"algorithms.ema.smoothing is {smoothing}; it must lie between 0 and 1")
        for name, value in (("half_life", half_life), ("update_interval", update_interval)):
            _check_batches(f"algorithms.ema.{name}", value)
        super().__init__(half_life, smoothing, ema_start, update_interval)

    def match(self, event: Event, state: State) -> bool:
        """As Composer's, but leaves checkpoints to ``AveragedCheckpoints``, which knows when one is written."""
        return event not in self.checkpoint_events and bool(super().match(event, state))

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """As Composer's, but always updates the average from the trained weights."""
        self._take_names_of(state.model)
        if event == self.update_event:
            self._ensure_training_weights_active(state)
        super().apply(event, state, logger)

    def use_average(self, state: State) -> None:
        """Puts the average into the model, if there is one yet; the next batch restores the trained weights.

        Args:
            state: State of the Trainer.
        """
        if self.ema_started:
            self._take_names_of(state.model)
            self._ensure_ema_weights_active(state)

    def _take_names_of(self, model: nn.Module) -> None:
        """Adapts the average's names to DDP's prefix, which differs after a resume on one process or on several."""
        if self.ema_model is None:
            return
        prefix = _DDP_PREFIX if isinstance(model, DistributedDataParallel) else ""
        for attribute in ("named_parameters_dict", "named_buffers_dict"):
            named = getattr(self.ema_model, attribute)
            if any(name.startswith(_DDP_PREFIX) != bool(prefix) for name in named):
                renamed = {prefix + name.removeprefix(_DDP_PREFIX): value for name, value in named.items()}
                setattr(self.ema_model, attribute, renamed)


def use_averages(algorithms: Iterable[Algorithm], state: State) -> None:
    """Puts averaged weights into the model where a run averages them.

    Args:
        algorithms: The run's algorithms.
        state: State of the Trainer.
    """
    for algorithm in algorithms:
        if isinstance(algorithm, ExponentialMovingAverage):
            algorithm.use_average(state)


def check_ema(arguments: Mapping[str, Any], config: TrainConfig) -> None:
    """Refuses EMA where it does not work.

    Raises:
        UserError: The run is sharded.
    """
    if config.fsdp_config is not None:
        raise UserError(
            "algorithms.ema: under FSDP2 Composer's version fails after an evaluation, and a checkpoint holds only the "
            "first process's part of the average; leave out fsdp_config to train with DDP"
        )


def _check_batches(key: str, value: str | None) -> None:
    """Refuses epochs: they are too few, and at the end of one a run that a signal stopped counts itself as finished."""
    if value is None:
        return
    try:
        time = Time.from_timestring(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{key} is {value!r}; give batches, such as 100ba") from error
    if time.unit.value != "ba" or time.value < 1:
        raise UserError(f"{key} is {value!r}; give batches, such as 100ba")
