"""Changes to a model from outside: its blocks are compiled, recomputed in the backward pass, and sharded.

Compiling and recomputing replace only a block's ``forward``; code around it, such as FSDP's hooks, stays in eager mode.
Composer shards the model; ``fsdp_wrap_fn`` tells it which modules to shard separately.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from plm_composer.model.batch_layouts import Layout
from plm_composer.model.esm2 import ESM2, ESM2Block

AUTO = "auto"
"""The ``compile_config`` with which ``compile_arguments`` decides."""

_MOST_GRAPHS = 64
"""Graphs of one function that torch may compile. A block has one for each objective, for training and evaluation, for
packed and padded batches, and another for the first block if it differs: together more than 8, torch's default."""

Forward = Callable[[ESM2Block, Tensor, Layout], Tensor]


def compile_arguments(compile_config: str | Mapping[str, Any] | None, device: str) -> dict[str, Any] | None:
    """Decides whether blocks are compiled.

    Args:
        compile_config: ``compile_config`` of the run.
        device: ``cpu`` or ``gpu``.

    Returns:
        Arguments of ``torch.compile``; None not to compile. ``auto`` compiles on GPUs if Triton is installed, and a C
        compiler for the code that launches its kernels.
    """
    if isinstance(compile_config, Mapping):
        return dict(compile_config)
    if compile_config is None or device == "cpu":
        return None
    return {} if has_c_compiler() and has_triton() else None


def has_c_compiler() -> bool:
    """Whether there is a C compiler, with which Triton builds the code that launches its kernels."""
    return any(shutil.which(name) for name in (os.environ.get("CC"), "gcc", "clang", "cc") if name)


def has_triton() -> bool:
    """Whether Triton is installed, in which ``torch.compile`` writes its kernels for GPUs."""
    return importlib.util.find_spec("triton") is not None


def parallelize(
    model: ESM2, *, activation_checkpointing: bool = False, compile_arguments: Mapping[str, Any] | None = None
) -> None:
    """Prepares each block of a model for recomputation, compilation and sharding, in place.

    ``torch.compile`` compiles one block; its code serves all blocks and, with symbolic numbers of tokens, all batches.
    Compiling the whole model would take as many times longer as there are layers. Recomputation wraps the compiled
    block.

    Args:
        model: The model.
        activation_checkpointing: Save only the blocks' inputs for the backward pass, and recompute the rest.
        compile_arguments: Arguments of ``torch.compile``; None not to compile.
    """
    forwards: dict[type, Forward] = {}
    for kind in {type(block) for block in model.blocks}:
        assert issubclass(kind, ESM2Block)
        forwards[kind] = _changed(kind.forward, activation_checkpointing, compile_arguments)
    for block in model.blocks:
        # Bound like any method, so that a copy of the model calls its own blocks.
        block.forward = types.MethodType(forwards[type(block)], block)
    model.fsdp_wrap_fn = is_block  # type: ignore[assignment]


def is_block(module: nn.Module) -> bool:
    """Whether FSDP2 shards a module separately: only blocks. The embedding table and both its users stay together.

    Args:
        module: A module of an ``ESM2``.
    """
    return isinstance(module, ESM2Block)


def _changed(forward: Forward, activation_checkpointing: bool, compile_arguments: Mapping[str, Any] | None) -> Forward:
    if compile_arguments is not None:
        _configure_compiler()
        forward = torch.compile(forward, **{"dynamic": True, **compile_arguments})
    return _recomputing(forward) if activation_checkpointing else forward


def _configure_compiler() -> None:
    """Sets what torch has as settings of the whole process only."""
    from torch._dynamo import config  # Here, because it takes a second to import.

    # For DDP, torch would cut a graph wherever a bucket of gradients is full, so that they are sent during the backward
    # pass. They are anyhow: after each block. And what is cut is fused less.
    config.optimize_ddp = False
    # Beyond its limit torch would run a block uncompiled, with no more than a warning.
    config.recompile_limit = max(config.recompile_limit, _MOST_GRAPHS)


def _recomputing(forward: Forward) -> Forward:
    def recomputing(block: ESM2Block, x: Tensor, layout: Layout) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(block, x, layout)
        # Blocks draw no random numbers, so there is no generator state to restore.
        arguments: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        return checkpoint(forward, block, x, layout, **arguments)

    return recomputing
