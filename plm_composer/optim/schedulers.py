"""Learning-rate schedules by name, and the one of a YAML's ``scheduler`` section."""

from __future__ import annotations

import types
import warnings
from collections.abc import Mapping
from typing import Any

from composer import optim as composer_optim
from composer.core import Time, Timestamp
from composer.core.time import ensure_time
from composer.optim import ComposerScheduler

from plm_composer.config.registry import Registry, build, split_name
from plm_composer.errors import UserError, first_line
from plm_composer.optim.linear_schedules import LinearToZeroScheduler, LinearWithWarmupAndHoldScheduler
from plm_composer.optim.warmup_stable_decay import WarmupStableDecayScheduler

SCHEDULERS = Registry(
    "schedulers",
    {
        "constant": composer_optim.ConstantScheduler,
        "constant_with_warmup": composer_optim.ConstantWithWarmupScheduler,
        "cosine_annealing": composer_optim.CosineAnnealingScheduler,
        "cosine_annealing_warm_restarts": composer_optim.CosineAnnealingWarmRestartsScheduler,
        "cosine_annealing_with_warmup": composer_optim.CosineAnnealingWithWarmupScheduler,
        "exponential": composer_optim.ExponentialScheduler,
        "linear": composer_optim.LinearScheduler,
        "linear_to_zero": LinearToZeroScheduler,
        "linear_with_warmup": composer_optim.LinearWithWarmupScheduler,
        "linear_with_warmup_and_hold": LinearWithWarmupAndHoldScheduler,
        "multistep": composer_optim.MultiStepScheduler,
        "multistep_with_warmup": composer_optim.MultiStepWithWarmupScheduler,
        "polynomial": composer_optim.PolynomialScheduler,
        "polynomial_with_warmup": composer_optim.PolynomialWithWarmupScheduler,
        "step": composer_optim.StepScheduler,
        "warmup_stable_decay": WarmupStableDecayScheduler,
    },
    base=composer_optim.ComposerScheduler,
)


def make_scheduler(section: Mapping[str, Any]) -> ComposerScheduler:
    """Makes the learning-rate schedule of the ``scheduler`` section.

    Args:
        section: ``name``, and arguments of the schedule's class.

    Raises:
        UserError: The name or an argument is unknown, or the schedule refuses one.
    """
    target, arguments = split_name("scheduler", section, SCHEDULERS)
    scheduler: ComposerScheduler = build("scheduler", target, arguments)
    return scheduler


def check_scheduler(scheduler: ComposerScheduler, max_duration: int | str, batches: int | None = None) -> None:
    """Computes a schedule's first learning rate, as the Trainer will.

    Args:
        scheduler: The schedule.
        max_duration: Duration of the run, in epochs or as a time string.
        batches: Number of batches per epoch; None if unknown, and then schedules that need it are not checked.

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
            warnings.simplefilter("ignore")  # The Trainer warns again.
            scheduler(state)
    except (ValueError, TypeError, AttributeError) as error:  # wrong type, for example a number for a time
        raise UserError(f"scheduler: {first_line(error)}") from error
    except RuntimeError:
        if batches is not None:
            raise
