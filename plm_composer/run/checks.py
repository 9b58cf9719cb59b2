"""Checks of single values beyond their types, which the schema checks: names of folders, times, sizes, hardware."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from composer.core.time import ensure_time
from composer.utils import dist
from streaming import Stream

from plm_composer.config.registry import check_arguments
from plm_composer.config.schema import TrainConfig
from plm_composer.errors import UserError
from plm_composer.hardware.machine import check_device
from plm_composer.hardware.precision import check_precision

_COUNTED_UNITS = "ep (epochs), ba (batches), sp (proteins) or tok (tokens)"
_SCHEDULE_UNITS = f"dur (share of max_duration), {_COUNTED_UNITS}"


def check_values(config: TrainConfig) -> None:
    """Checks names of folders, times, sizes and hardware.

    Args:
        config: The run's config.

    Raises:
        UserError: A value is wrong; the message names the key of the first one.
    """
    _check_names(config)
    if not any((config.data.fasta, config.data.local, config.data.remote, config.data.streams)):
        raise UserError("data names no dataset; set data.local, data.remote, data.streams or data.fasta")
    _check_times(config)
    _check_sizes(config)
    check_precision("precision", config.precision)
    check_device("device", config.device)
    if config.objective == "causal" and config.data.mask_span_length != 1:
        raise UserError("data.mask_span_length has no effect with objective=causal, which masks nothing; leave it out")
    if config.preemption_grace <= 0:
        raise UserError(f"preemption_grace is {config.preemption_grace:g}; it must be above 0 seconds")
    if config.autoresume and config.save_folder is None:
        raise UserError("autoresume needs save_folder: there would be no checkpoint to resume from")


def check_schedule_units(section: Mapping[str, Any], duration: int | str) -> None:
    """Checks that the times of a learning-rate schedule can be compared.

    Composer compares the warm-up with the end of the schedule, so both need the same unit. It converts epochs into
    batches.

    Args:
        section: The config's ``scheduler``.
        duration: The duration of the run: a number of epochs, or a time string.

    Raises:
        UserError: A time cannot be read, or two times have different units.
    """
    whole = ensure_time(duration, "ep").unit.value

    def unit(key: str, default: str) -> str:
        value = section.get(key, default)
        try:
            found = str(ensure_time(value, "ba").unit.value)
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"scheduler.{key} is {value!r}; write a number and a unit: {_SCHEDULE_UNITS}") from error
        found = whole if found == "dur" else found
        return "ba" if found == "ep" else found

    end = unit("t_max", "1dur")
    for key in ("t_warmup", "t_decay"):
        if key in section and (counted := unit(key, "1dur")) != end:
            raise UserError(
                f"scheduler.{key} is {section[key]!r}, counted in {counted}, and the schedule ends in {end}; "
                "give both in one unit, or a share such as 0.05dur"
            )


def _check_names(config: TrainConfig) -> None:
    """Checks the values that name folders.

    Braces are refused, because Composer fills in ``{rank}`` and the like only in the name of the checkpoint folder: the
    checkpoints would be outside the run folder.
    """
    for key in ("run_name", "run_folder"):
        name = str(getattr(config, key)).replace("${run_name}", "run")
        if "{" in name or "}" in name:
            raise UserError(f"{key} is {name!r}; leave out the braces")
        if not name.strip():
            raise UserError(f"{key} is {name!r}; it must name a folder")
    if {"", ".", ".."} & set(str(config.run_name).split("/")):  # with these, two names could mean one folder
        raise UserError(f"run_name is {config.run_name!r}; name another place with run_folder, and use no . or .. here")
    for name, arguments in (config.data.streams or {}).items():
        check_arguments(f"data.streams.{name}", Stream, arguments)


def _check_times(config: TrainConfig) -> None:
    for key, default_unit, wall_clock in (
        ("max_duration", "ep", False),
        ("eval_interval", "ep", True),
        ("save_interval", "ep", True),
        ("console_log_interval", "ba", False),
    ):
        value = getattr(config, key)
        try:
            time = ensure_time(value, default_unit)
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"{key} is {value!r}; write a number and a unit: {_COUNTED_UNITS}") from error
        if time.value <= 0 and key == "max_duration":
            raise UserError(f"max_duration is {value!r}; it must be above 0")
        if time.unit.value == "sec" and not wall_clock:
            raise UserError(f"{key} is {value!r}: Composer counts no seconds here; use {_COUNTED_UNITS}")


def _check_sizes(config: TrainConfig) -> None:
    world_size = dist.get_world_size()
    total = config.global_train_batch_size
    if not isinstance(total, int) or total < 1 or total % world_size:
        raise UserError(
            f"global_train_batch_size is {total}; it must be a number of proteins, divisible by the {world_size} "
            "processes, or auto"
        )
    micro = config.device_train_microbatch_size
    if micro == "auto":
        if not torch.cuda.is_available() or config.device == "cpu":
            raise UserError("device_train_microbatch_size=auto needs a GPU; give a number of proteins")
    elif micro is not None and (not isinstance(micro, int) or not 1 <= micro <= total // world_size):
        raise UserError(
            f"device_train_microbatch_size is {micro!r}; it must be a number from 1 to {total // world_size}, the "
            "proteins that one device gets of global_train_batch_size"
        )
    tokens = config.device_train_microbatch_tokens
    if tokens is not None and micro is not None:
        raise UserError("device_train_microbatch_tokens and device_train_microbatch_size exclude each other; set one")
    if tokens is not None and tokens < config.data.crop_length:
        raise UserError(
            f"device_train_microbatch_tokens is {tokens}; it must be at least data.crop_length, "
            f"{config.data.crop_length}, so that the longest protein fits"
        )
    for key, least in (("num_workers", 0), ("prefetch_factor", 1)):
        if getattr(config.data, key) < least:
            raise UserError(f"data.{key} is {getattr(config.data, key)}; it must be at least {least}")
    if config.eval_batch_tokens < 1:
        raise UserError(f"eval_batch_tokens is {config.eval_batch_tokens}; it must be at least 1")
