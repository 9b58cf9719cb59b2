"""Replaces `auto` in a run's config: the model's size, the batch and the learning rate follow from the budget."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from composer.utils import dist, format_name_with_dist, get_device

from plm_composer.budget.duration import describe_duration, parse_duration
from plm_composer.budget.optimum import LEAST_PROTEINS, SIZES, best_adamw_rate, best_batch, best_parameters, worth_of
from plm_composer.checkpoints.resume import holds_checkpoints
from plm_composer.config.merge import SIZES_OF_A_MODEL, read_resolved
from plm_composer.config.schema import TrainConfig
from plm_composer.errors import UserError
from plm_composer.hardware.machine import free_memory, prepare_cpu
from plm_composer.hardware.precision import working_dtype
from plm_composer.model.config import ESM2Config
from plm_composer.model.cost import Workload, parameter_count, predict
from plm_composer.run.amount import Amount, estimate_amount
from plm_composer.run.checks import check_values
from plm_composer.run.parts import make_model_config
from plm_composer.run.step_timing import Speed, measure
from plm_composer.run_folder import RunFolder, check_owned

AUTO = "auto"
_SIZED = "esm2_8m"
"""The preset whose sizes are replaced."""
_TIMED_FIRST = {"cpu": 9e5, "cuda": 3e7}
"""Parameters of the first model that is timed, by the kind of device."""
_OVERHEAD, _SHARE = 8.0, 0.95
"""Seconds for the start and the end of a run, and the share of the rest that is training."""
_RATES: dict[str, dict[str, float]] = {
    "muon": {"lr": 0.02, "adamw_lr": 3e-3},
    "normuon": {"lr": 0.02, "adamw_lr": 3e-3},
}
"""Rates for optimizers whose steps do not depend on the width (Jordan et al. 2024), measured with ``cramming``."""
_ADAMW = ("adamw", "decoupled_adamw", "stable_adamw")
_MOST_PROTEINS = 1 << 20
"""Proteins of a microbatch in the prediction of memory; no machine holds so many."""
_LEAST_BATCHES = 8
"""Batches of an epoch: so few data may need smaller batches than the training would like."""


def wants_choice(config: TrainConfig) -> bool:
    """Whether anything in a config is ``auto`` that the budget decides."""
    return _chooses_size(config) or config.global_train_batch_size == AUTO or bool(_open_rates(config))


def choose(config: TrainConfig, spent: float = 0.0) -> TrainConfig:
    """Chooses what is ``auto``, and prints it with the reason. Called by rank 0 only.

    A run that continues takes what its first start chose.

    Args:
        config: A run's config.
        spent: Seconds of the budget that are gone.

    Returns:
        The config without ``auto``.

    Raises:
        UserError: There is no budget, or nothing to choose by, or another value of the config is wrong.
    """
    check_values(provisional(config))
    if (earlier := _earlier_choice(config)) is not None:
        return earlier
    device = torch.device("cuda" if get_device(config.device).name == "gpu" else "cpu")
    if device.type == "cpu":
        prepare_cpu()
    left = parse_duration("budget", str(config.budget)) - spent
    seconds = max(_SHARE * (left - _OVERHEAD), 0.2 * left, 1.0)
    amount, device_seconds = estimate_amount(config.data), seconds * dist.get_world_size()
    free = _free_memory(device)  # before models are timed: what they leave is kept for later ones
    speeds: dict[ESM2Config, Speed] = {}
    model = _nearest(_models_of(config), _TIMED_FIRST[device.type])
    while model not in speeds:
        speeds[model] = measure(provisional(config), model, amount, device)
        if _chooses_size(config):
            tokens, flops = speeds[model].over(device_seconds)
            wanted = best_parameters(flops * worth_of(tokens, amount.tokens) / tokens, causal=model.causal)
            lengths = _longest_microbatch(config, _batch_of(config, tokens, amount))
            smallest, *larger = _models_of(config)
            fitting = [each for each in larger if _memory(config, each, lengths, device) < free]
            model = _nearest([smallest, *fitting], wanted)
    tokens, flops = speeds[model].over(device_seconds)
    chosen = dataclasses.replace(config, model=_section(config, model))
    chosen.global_train_batch_size = _batch_of(config, tokens, amount)
    chosen.optimizer = {**config.optimizer, **_rates(config, model, tokens)}
    print(_describe(chosen, model, seconds, flops, tokens, amount), file=sys.stderr)
    return chosen


def provisional(config: TrainConfig) -> TrainConfig:
    """A config without ``auto``, to check everything else by; the config itself if nothing is ``auto``.

    Raises:
        UserError: There is no budget, or nothing to choose by.
    """
    if not wants_choice(config):
        return config
    if config.budget is None:
        raise UserError("auto needs a budget to choose by; set budget=20min, or name a model and a batch")
    smallest = _models_of(config)[0]
    _rates(config, smallest, 1.0)  # refuses an optimizer whose rate nobody knows
    model = _section(config, smallest)
    size = config.global_train_batch_size
    if size == AUTO:
        size = dist.get_world_size() * (_proteins_of_microbatch(config) or 1)
    rates = dict.fromkeys(_open_rates(config), 1e-3)
    return dataclasses.replace(
        config, model=model, global_train_batch_size=size, optimizer={**config.optimizer, **rates}
    )


def with_choice_of(config: TrainConfig, before: Mapping[str, Any]) -> TrainConfig:
    """A config with what another one has wherever it says ``auto``.

    Args:
        config: A run's config.
        before: The resolved config of an earlier start, as plain values.
    """
    size = config.global_train_batch_size
    taken: dict[str, Any] = {}
    if _chooses_size(config):
        given = {key: value for key, value in config.model.items() if key != "name"}
        taken = {key: before["model"][key] for key in ("name", *SIZES_OF_A_MODEL) if key in before["model"]} | given
    optimizer = {key: value for key, value in config.optimizer.items() if value != AUTO}
    rates = {key: before["optimizer"][key] for key in _open_rates(config) if key in before["optimizer"]}
    return dataclasses.replace(
        config,
        model={**config.model, **taken},
        optimizer={**optimizer, **rates},
        global_train_batch_size=before["global_train_batch_size"] if size == AUTO else size,
    )


def _chooses_size(config: TrainConfig) -> bool:
    return config.model.get("name") == AUTO


def _open_rates(config: TrainConfig) -> list[str]:
    return [key for key in ("lr", "adamw_lr") if config.optimizer.get(key) == AUTO]


def _section(config: TrainConfig, model: ESM2Config) -> dict[str, Any]:
    """The config's ``model`` with the sizes of a model, as if the user had written them."""
    if not _chooses_size(config):
        return config.model
    return {**config.model, "name": _SIZED, **{name: getattr(model, name) for name in SIZES_OF_A_MODEL}}


def _models_of(config: TrainConfig) -> list[ESM2Config]:
    """The config's model in each size that its given fields fit, the smallest first; at least one.

    Raises:
        UserError: They fit none.
    """
    if not config.model:
        raise UserError("model is not set; set model.name=auto, or name a model")
    found, refusals = [], []
    for size in SIZES if _chooses_size(config) else SIZES[:1]:
        try:
            found.append(_model_of(config, size))
        except UserError as error:
            refusals.append(error)
    if not found:
        raise refusals[0]
    return found


def _model_of(config: TrainConfig, size: tuple[int, int]) -> ESM2Config:
    """The config's model in a size (layers, width), but for the sizes that the config sets itself."""
    section = dict(config.model)
    if _chooses_size(config):
        layers, width = size
        width = section.get("hidden_size", width)
        if not isinstance(width, int) or width < 1:
            raise UserError(f"model.hidden_size is {width!r}; it must be a whole number, at least 1")
        head = section.get("attention_head_size")
        sizes = {
            "num_hidden_layers": layers,
            "num_attention_heads": max(1, width // (head if isinstance(head, int) and head > 0 else 64)),
            "intermediate_size": 4 * width,
        }
        section = {**sizes, "hidden_size": width, **section, "name": _SIZED}
    elif "pretrained" in section:
        raise UserError("model.pretrained has its own size and data; give its batch and learning rate as numbers")
    return make_model_config(dataclasses.replace(config, model=section))


def _free_memory(device: torch.device) -> float:
    """Bytes that one process may take: those of a GPU are its own, those of a machine are shared."""
    return free_memory(device) / (dist.get_local_world_size() if device.type == "cpu" else 1)


def _nearest(models: Sequence[ESM2Config], parameters: float) -> ESM2Config:
    """The model whose number of parameters is nearest to another number."""
    return min(models, key=lambda model: abs(math.log(parameter_count(model) / parameters)))


def _longest_microbatch(config: TrainConfig, batch: int) -> list[int]:
    """Tokens of each protein of a device's microbatch, if all of them fill the crop."""
    length, limits = config.data.crop_length, [batch // dist.get_world_size(), _MOST_PROTEINS]
    if config.device_train_microbatch_tokens is not None:
        limits.append(config.device_train_microbatch_tokens // length)
    if (proteins := _proteins_of_microbatch(config)) is not None:
        limits.append(proteins)
    return [length] * max(1, min(limits))


def _proteins_of_microbatch(config: TrainConfig) -> int | None:
    size = config.device_train_microbatch_size
    return size if isinstance(size, int) and size > 0 else None


def _memory(config: TrainConfig, model: ESM2Config, lengths: list[int], device: torch.device) -> int:
    """Bytes that a training takes at its peak, unsharded, with two values of the optimizer for each parameter."""
    on_cpu = device.type == "cpu"
    workload = Workload(
        lengths,
        mask_rate=1.0 if model.predicts_next else config.data.mask_rate,
        bf16=working_dtype(config.precision, "cpu" if on_cpu else "gpu") != torch.float32,
        padded=config.data.batch_format != "unpadded",
        on_cpu=on_cpu,
        checkpointing=config.activation_checkpointing,
        accumulates=True,
    )
    return predict(model, workload).total


def _batch_of(config: TrainConfig, tokens: float, amount: Amount) -> int:
    """The batch that is given, or the best one for a training of so many tokens.

    That is a multiple of the processes and, if the data have enough proteins, of eight.
    """
    if isinstance(config.global_train_batch_size, int):
        return config.global_train_batch_size
    processes = dist.get_world_size()
    wanted = min(max(best_batch(tokens) / amount.crop, LEAST_PROTEINS), amount.proteins / _LEAST_BATCHES)
    unit = math.lcm(8, processes)
    if wanted < unit:
        unit = processes
    least = processes * (_proteins_of_microbatch(config) or 1)
    return max(math.ceil(wanted / unit - 0.5) * unit, least)


def _rates(config: TrainConfig, model: ESM2Config, tokens: float) -> Mapping[str, float]:
    name, found = config.optimizer.get("name"), {}
    for key in _open_rates(config):
        if key in _RATES.get(str(name), {}):
            found[key] = _RATES[str(name)][key]
        elif name in _ADAMW and key == "lr":
            table = model.hidden_size * 33
            found[key] = float(f"{best_adamw_rate(parameter_count(model) - table, tokens):.1e}")
        else:
            raise UserError(
                f"optimizer.{key} is auto, which is known for {', '.join([*_RATES, *_ADAMW])}; give a number"
            )
    return found


def _earlier_choice(config: TrainConfig) -> TrainConfig | None:
    """The config with what an earlier start of the run chose; None if there was none."""
    if not config.autoresume:
        return None
    folder = RunFolder(Path(config.run_folder))
    check_owned(folder)
    if folder.config.is_file():
        before = read_resolved(folder.config)
        _check_given_sizes(config, before["model"], folder.config)
        return with_choice_of(config, before)
    place = format_name_with_dist(config.save_folder or "", str(config.run_name))
    if place and holds_checkpoints(place):
        raise UserError(
            f"autoresume: {place} holds an earlier start, and what it chose for auto stood in {folder.config}, which "
            "is gone; give those keys as numbers"
        )
    return None


def _check_given_sizes(config: TrainConfig, before: Mapping[str, Any], path: Path) -> None:
    """Refuses a size that the earlier start did not have: with the others of it, it may be no model at all."""
    for key in SIZES_OF_A_MODEL if _chooses_size(config) else ():
        if key in config.model and config.model[key] != before.get(key):
            raise UserError(
                f"autoresume: {path} was started with model.{key}={before.get(key)!r} and this run has "
                f"{config.model[key]!r}; resume with the same, or choose another run_name="
            )


def _describe(
    config: TrainConfig, model: ESM2Config, seconds: float, flops: float, tokens: float, amount: Amount
) -> str:
    epochs = tokens / amount.tokens
    data = f", {epochs:.2g} epochs" if math.isfinite(amount.proteins) else ""
    rates = ", ".join(f"{key} {config.optimizer[key]}" for key in ("lr", "adamw_lr") if key in config.optimizer)
    layers = f"{model.num_hidden_layers} layer{'s' if model.num_hidden_layers > 1 else ''}"
    return (
        f"auto: {layers}, {model.hidden_size} wide ({parameter_count(model) / 1e6:.1f} M parameters), "
        f"{config.global_train_batch_size} proteins a batch, {rates}; for about {describe_duration(seconds)} of "
        f"training at {flops / seconds / 1e9:,.0f} GFLOP/s: {flops:.1e} FLOPs, {tokens / 1e6:,.1f} M tokens{data} "
        "(docs/choosing.md)"
    )
