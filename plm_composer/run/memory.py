"""Predicts the memory that one process of a run takes, which ``plm config`` prints."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from plm_composer.hardware.precision import AUTOCAST_DTYPES
from plm_composer.model.cost import Memory, Workload, predict
from plm_composer.run.parts import Parts


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The predicted memory of one process.

    Attributes:
        memory: Peak memory, bytes by kind.
        tokens: Tokens of a microbatch, padding included.
        exact: Whether the config limits the tokens of a microbatch. If not, ``tokens`` is their number when every
            protein fills the crop.
    """

    memory: Memory
    tokens: int
    exact: bool

    def describe(self) -> str:
        """The estimate in one line of text, in GB of 10^9 bytes."""
        parts = ", ".join(f"{name} {value / 1e9:.2f}" for name, value in vars(self.memory).items())
        bound = "at" if self.exact else "with at most"
        total = f"{self.memory.total / 1e9:.2f} GB a process"
        return f"memory: {total} {bound} {self.tokens:,} tokens a microbatch: {parts}"

    def to_mapping(self) -> dict[str, Any]:
        """The estimate as a dict: bytes by kind and in total, the microbatch's tokens, and ``exact``."""
        total, tokens = self.memory.total, self.tokens
        return {**dataclasses.asdict(self.memory), "total": total, "microbatch_tokens": tokens, "exact": self.exact}


def predict_memory(parts: Parts) -> Estimate:
    """Predicts the peak memory of one process of a run.

    Args:
        parts: The run's parts.
    """
    config, lengths = parts.config, _microbatch(parts)
    with torch.device("meta"):
        shapes = parts.model_class(parts.model)
    workload = Workload(
        lengths=lengths,
        mask_rate=1.0 if parts.model.predicts_next else parts.collator.masking.mask_rate,
        bf16=parts.precision in AUTOCAST_DTYPES,
        padded=config.data.batch_format != "unpadded",
        on_cpu=parts.device == "cpu",
        checkpointing=config.activation_checkpointing,
        accumulates=sum(lengths) < parts.proteins * config.data.crop_length,
        optimizer_states=parts.optimizer.states_per_parameter(shapes),
        processes=parts.processes if parts.sharding is None else parts.sharding.shard_degree(parts.processes),
        sharded=parts.sharding is not None,
    )
    memory = predict(parts.model, workload)
    return Estimate(memory, workload.positions, config.device_train_microbatch_tokens is not None)


def _microbatch(parts: Parts) -> list[int]:
    """Lengths of the proteins in the largest microbatch that the config allows, in tokens."""
    config, proteins = parts.config, parts.proteins
    length, tokens = config.data.crop_length, config.device_train_microbatch_tokens
    if tokens is None:
        given = config.device_train_microbatch_size
        return [length] * (given if isinstance(given, int) else proteins)
    if tokens >= proteins * length:
        return [length] * proteins
    lengths = [length] * (tokens // length)
    # All rows of a padded batch have the full length; a packed batch may end in a shorter protein.
    if config.data.batch_format == "unpadded" and tokens % length:
        lengths.append(tokens % length)
    return lengths
