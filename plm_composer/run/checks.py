"""Checks of a config that need more than its schema: names, arguments, times, sizes, hardware."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from composer.core.time import ensure_time
from composer.optim import ComposerScheduler
from composer.utils import dist, get_device
from streaming import Stream

from plm_composer.algorithms import ALGORITHMS, REFUSED_ALGORITHMS, check_algorithms, needed_draws
from plm_composer.budget.duration import parse_duration
from plm_composer.budget.plan import PROVISIONAL_BATCHES
from plm_composer.callbacks import CALLBACKS
from plm_composer.config.registry import build, check_arguments, look_up, suggestion
from plm_composer.config.schema import TrainConfig
from plm_composer.data.collate import Collator
from plm_composer.data.masking import Masking
from plm_composer.errors import UserError
from plm_composer.hardware.precision import working_dtype
from plm_composer.hardware.sharding import make_sharding
from plm_composer.loggers import LOGGERS
from plm_composer.model.attention import BACKENDS, choose_backend
from plm_composer.model.config import PRESETS, ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.parallelize import AUTO
from plm_composer.model.weights.pretrained import check_pretrained, pretrained_config
from plm_composer.optim import OPTIMIZERS, SCHEDULERS
from plm_composer.optim.kind import OptimizerKind
from plm_composer.optim.schedulers import check_scheduler

PRECISIONS = ("auto", "fp32", "amp_bf16")
DEVICES = (None, "cpu", "gpu")
_COUNTED_UNITS = "ep (epochs), ba (batches), sp (proteins) or tok (tokens)"
_SCHEDULE_UNITS = f"dur (share of max_duration), {_COUNTED_UNITS}"


def check_config(config: TrainConfig) -> None:
    """Checks everything that can be checked before data are read.

    Raises:
        UserError: The first thing that is wrong, with its key.
    """
    collator = make_collator(config)
    if "pretrained" in config.model:
        check_pretrained(config.model, config.load_trust)
    else:
        model_config(config)
    _check_names(config)
    if not any((config.data.fasta, config.data.local, config.data.remote, config.data.streams)):
        raise UserError("data names no dataset; set data.local, data.remote, data.streams or data.fasta")
    _check_optimizer(config)
    _check_scheduler_arguments(config)
    for kind, entries, registry, refused in (
        ("algorithms", config.algorithms, ALGORITHMS, REFUSED_ALGORITHMS),
        ("callbacks", config.callbacks, CALLBACKS, {}),
        ("loggers", config.loggers, LOGGERS, {}),
    ):
        for name, arguments in entries.items():
            target = look_up(f"{kind}.{name}", name, registry, refused)
            if arguments is not None:
                check_arguments(f"{kind}.{name}", target, arguments)
    if config.budget is not None:
        parse_duration("budget", config.budget)
    _check_times(config)
    _check_schedule(config)
    _check_sizes(config)
    if config.precision not in PRECISIONS:
        raise UserError(f"precision is {config.precision!r}; choose from {', '.join(PRECISIONS)}")
    if config.device not in DEVICES:
        raise UserError(f"device is {config.device!r}; choose cpu or gpu, or leave it out")
    if config.device == "gpu" and not torch.cuda.is_available():
        raise UserError("device is gpu, but torch finds no CUDA device; leave it out or set device=cpu")
    make_sharding(config.fsdp_config, dist.get_world_size())
    check_algorithms(config.algorithms, config, collator)
    _check_compilation(config)
    _check_attention(config)
    if config.preemption_grace <= 0:
        raise UserError(f"preemption_grace is {config.preemption_grace:g}; it must be above 0 seconds")
    if config.autoresume and config.save_folder is None:
        raise UserError("autoresume needs save_folder: there would be no checkpoint to resume from")


def _check_compilation(config: TrainConfig) -> None:
    if config.compile_config in (AUTO, None):
        return
    if not isinstance(config.compile_config, dict):
        raise UserError(
            f"compile_config is {config.compile_config!r}; give auto, null, or arguments of torch.compile such as "
            "compile_config.mode=max-autotune"
        )
    # Only then does torch look at modes, options and backends; it compiles nothing before it is called.
    build("compile_config", torch.compile, config.compile_config, model=len)


def _check_attention(config: TrainConfig) -> None:
    if config.attention_backend is None:
        return
    look_up("attention_backend", config.attention_backend, BACKENDS)
    if config.data.batch_format != "unpadded":
        raise UserError(
            f"attention_backend does nothing with data.batch_format={config.data.batch_format}, whose attention is "
            "torch's own; leave it out"
        )
    device = get_device(config.device).name
    pretrained = "pretrained" in config.model
    model = pretrained_config(config.model, config.load_trust) if pretrained else model_config(config)
    choose_backend(
        torch.device("cuda" if device == "gpu" else "cpu"),
        working_dtype(config.precision, device),
        model.position_embedding_type == "alibi",
        config.attention_backend,
    )


def _check_names(config: TrainConfig) -> None:
    """Checks what names folders.

    Composer fills ``{rank}`` and its like into the folder of checkpoints alone: the run's own would be another.
    """
    for key in ("run_name", "run_folder"):
        name = str(getattr(config, key)).replace("${run_name}", "run")
        if "{" in name or "}" in name:
            raise UserError(f"{key} is {name!r}; leave out the braces")
        if not name.strip() or "\0" in name:
            raise UserError(f"{key} is {name!r}; it must name a folder")
    if {"", ".", ".."} & set(str(config.run_name).split("/")):  # by which two names would be one folder
        raise UserError(f"run_name is {config.run_name!r}; name another place with run_folder, and the run without ..")
    for name, arguments in (config.data.streams or {}).items():
        check_arguments(f"data.streams.{name}", Stream, arguments)


def model_config(config: TrainConfig) -> ESM2Config:
    """Makes the config of a model that starts from scratch: a preset, with the fields that ``model`` sets over it.

    The token dropout's constant follows the run's own masking: ESM2's 0.12 is 15 % masked, 80 % of it ``<mask>``.

    Raises:
        UserError: The preset or a field is unknown, or a value is impossible.
    """
    fields = dict(config.model)
    name = fields.pop("name", None)
    if name is None:
        raise UserError(f"model.name is missing; choose from {', '.join(PRESETS)}")
    preset: ESM2Config = look_up("model.name", name, PRESETS)
    known = {field.name for field in dataclasses.fields(ESM2Config)}
    if "stack_to" in fields:
        raise UserError("model.stack_to needs model.pretrained, a trained model to stack")
    for field in fields:
        if field not in known:
            raise UserError(f"model.{field}: there is no such key; {suggestion(field, known)}")
    fields.setdefault("token_dropout_mask_rate", make_collator(config).masking.mask_token_rate)
    try:
        return dataclasses.replace(preset, **fields)
    except (TypeError, ValueError) as error:
        raise UserError(f"model: {error}") from error


def make_collator(config: TrainConfig) -> Collator:
    """Makes the collator that the ``data`` section describes."""
    data = config.data
    return Collator(
        seed=config.seed,
        crop_length=data.crop_length,
        crop_keeps_ends=data.crop_keeps_ends,
        batch_format=data.batch_format,
        masking=Masking(data.mask_rate, data.mask_token_fraction, data.random_token_fraction),
        draws=needed_draws(config.algorithms),
    )


def _check_optimizer(config: TrainConfig) -> None:
    name, arguments = _split_name("optimizer", config.optimizer, OPTIMIZERS)
    kind: OptimizerKind = look_up("optimizer.name", name, OPTIMIZERS)
    check_arguments("optimizer", kind.target, arguments, given=("params",), only_named=True)
    kind.check(config)
    # What its constructor refuses is told before data are read. It looks at values alone, so that any model will do.
    smallest = ESM2(ESM2Config(1, 2, 1, 1))
    build("optimizer", kind.target, arguments, params=kind.groups(smallest, arguments))


def _check_scheduler_arguments(config: TrainConfig) -> None:
    name, arguments = _split_name("scheduler", config.scheduler, SCHEDULERS)
    check_arguments("scheduler", look_up("scheduler.name", name, SCHEDULERS), arguments)


def _split_name(section: str, entries: Mapping[str, Any], registry: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    arguments = dict(entries)
    name = arguments.pop("name", None)
    if name is None:
        raise UserError(f"{section}.name is missing; choose from {', '.join(registry)}")
    return name, arguments


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


def _check_schedule(config: TrainConfig) -> None:
    """Composer compares a warm-up with the schedule's end, which takes one unit; epochs it turns into batches."""
    whole = ensure_time(planned_duration(config), "ep").unit.value

    def unit(key: str, default: str) -> str:
        value = config.scheduler.get(key, default)
        try:
            found = str(ensure_time(value, "ba").unit.value)
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"scheduler.{key} is {value!r}; write a number and a unit: {_SCHEDULE_UNITS}") from error
        found = whole if found == "dur" else found
        return "ba" if found == "ep" else found

    end = unit("t_max", "1dur")
    for key in ("t_warmup", "t_decay"):
        if key in config.scheduler and (counted := unit(key, "1dur")) != end:
            raise UserError(
                f"scheduler.{key} is {config.scheduler[key]!r}, counted in {counted}, and the schedule ends in {end}; "
                "give both in one unit, or a share such as 0.05dur"
            )
    check_scheduler(make_scheduler(config), planned_duration(config))


def planned_duration(config: TrainConfig) -> int | str:
    """How long a run is to train, as far as its config tells: with a budget, the speed will say."""
    return config.max_duration if config.budget is None else f"{PROVISIONAL_BATCHES}ba"


def make_scheduler(config: TrainConfig) -> ComposerScheduler:
    """Makes the learning rate's schedule.

    Raises:
        UserError: The schedule refuses its arguments.
    """
    arguments = dict(config.scheduler)
    scheduler: ComposerScheduler = build("scheduler", SCHEDULERS[arguments.pop("name")], arguments)
    return scheduler


def _check_sizes(config: TrainConfig) -> None:
    world_size = dist.get_world_size()
    total = config.global_train_batch_size
    if total < 1 or total % world_size:
        raise UserError(
            f"global_train_batch_size is {total}; it must be at least 1 and divide by the {world_size} processes"
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
    for key in ("num_workers", "prefetch_factor"):
        if getattr(config.data, key) < (0 if key == "num_workers" else 1):
            raise UserError(f"data.{key} is {getattr(config.data, key)}; it is too small")
    if config.eval_batch_tokens < 1:
        raise UserError(f"eval_batch_tokens is {config.eval_batch_tokens}; it must be at least 1")
