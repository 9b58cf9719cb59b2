"""From a run's config to the memory that one of its processes will take: what ``plm config`` prints."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from composer.utils import dist, get_device

from plm_composer.config.schema import TrainConfig
from plm_composer.hardware.precision import resolve_precision
from plm_composer.hardware.sharding import make_sharding
from plm_composer.model.config import ESM2Config, parameter_count
from plm_composer.model.cost import Memory, Workload, predict
from plm_composer.model.esm2 import ESM2
from plm_composer.model.weights.pretrained import pretrained_config
from plm_composer.optim import OPTIMIZERS
from plm_composer.run.checks import make_collator, model_config


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The memory of one process.

    Attributes:
        memory: Its peak.
        tokens: Positions of a microbatch, padding included.
        exact: Whether the config bounds the tokens; otherwise they are what proteins of the crop's length would have.
    """

    memory: Memory
    tokens: int
    exact: bool

    def describe(self) -> str:
        """One line for people, in GB of 10^9 bytes."""
        parts = ", ".join(f"{name} {value / 1e9:.2f}" for name, value in vars(self.memory).items())
        bound = "at" if self.exact else "with at most"
        total = f"{self.memory.total / 1e9:.2f} GB a process"
        return f"memory: {total} {bound} {self.tokens:,} tokens a microbatch: {parts}"

    def to_mapping(self) -> dict[str, Any]:
        """Bytes by kind, ``total`` among them, and the microbatch's tokens."""
        total, tokens = self.memory.total, self.tokens
        return {**dataclasses.asdict(self.memory), "total": total, "microbatch_tokens": tokens, "exact": self.exact}


def estimate(config: TrainConfig) -> Estimate:
    """Predicts the peak memory of one process of a run.

    Args:
        config: A checked config.

    Raises:
        UserError: ``model.pretrained`` holds no ESM2's config.
    """
    processes, device = dist.get_world_size(), get_device(config.device).name
    proteins = config.global_train_batch_size // processes
    lengths = _microbatch(config, proteins)
    sharding = make_sharding(config.fsdp_config, processes)
    model = pretrained_config(config.model, config.load_trust) if "pretrained" in config.model else model_config(config)
    workload = Workload(
        lengths=lengths,
        mask_rate=make_collator(config).masking.mask_rate,
        bf16=resolve_precision(config.precision, device) == "amp_bf16",
        padded=config.data.batch_format != "unpadded",
        on_cpu=device == "cpu",
        checkpointing=config.activation_checkpointing,
        accumulates=sum(lengths) < proteins * config.data.crop_length,
        optimizer_states=_optimizer_states(config, model),
        processes=processes if sharding is None else sharding.shard_degree(processes),
        sharded=sharding is not None,
    )
    return Estimate(predict(model, workload), workload.positions, config.device_train_microbatch_tokens is not None)


def _optimizer_states(config: TrainConfig, model: ESM2Config) -> float:
    """fp32 values that the optimizer keeps for each parameter, on average."""
    arguments = dict(config.optimizer)
    kind = OPTIMIZERS[arguments.pop("name")]
    with torch.device("meta"):
        shapes = ESM2(model)
    return kind.total_states(shapes, arguments) / parameter_count(model)


def _microbatch(config: TrainConfig, proteins: int) -> list[int]:
    """Lengths of the largest microbatch that the config allows, of ``proteins`` on a device."""
    length, tokens = config.data.crop_length, config.device_train_microbatch_tokens
    if tokens is None:
        given = config.device_train_microbatch_size
        return [length] * (given if isinstance(given, int) else proteins)
    if tokens >= proteins * length:
        return [length] * proteins
    # Rows of a padded batch are whole; a packed one may end in a shorter protein.
    rest = tokens % length if config.data.batch_format == "unpadded" else 0
    return [length] * (tokens // length) + [rest] * bool(rest)
