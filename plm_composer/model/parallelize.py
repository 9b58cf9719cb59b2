"""What is done to a model from outside: its blocks are compiled, recomputed in the backward pass, and sharded.

The first two change a block's ``forward`` alone, and leave what is called around it, such as FSDP's hooks, in eager
mode. Composer does the sharding, by what ``fsdp_wrap_fn`` says.
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
"""The ``compile_config`` that leaves the choice to ``compile_arguments``."""

Forward = Callable[[ESM2Block, Tensor, Layout], Tensor]


def compile_arguments(compile_config: str | Mapping[str, Any] | None, device: str) -> dict[str, Any] | None:
    """Decides whether blocks are compiled.

    Args:
        compile_config: The run's.
        device: ``cpu`` or ``gpu``.

    Returns:
        Arguments of ``torch.compile``; None not to compile. ``auto`` compiles on GPUs that have what it takes: Triton,
        and a C compiler for the code that launches its kernels.
    """
    if isinstance(compile_config, Mapping):
        return dict(compile_config)
    if compile_config is None or device == "cpu":
        return None
    has_compiler = any(shutil.which(name) for name in (os.environ.get("CC"), "gcc", "clang", "cc") if name)
    return {} if has_compiler and importlib.util.find_spec("triton") else None


def parallelize(
    model: ESM2, *, activation_checkpointing: bool = False, compile_arguments: Mapping[str, Any] | None = None
) -> None:
    """Applies to each block of a model what a run asks for, in place.

    ``torch.compile`` sees one block, whose code serves all of them, and all batches: numbers of tokens are symbols to
    it. On the whole model it would take as long as there are layers. Recomputation is around the compiled block.

    Args:
        model: The model.
        activation_checkpointing: Keep only the blocks' inputs for the backward pass, and recompute what is inside.
        compile_arguments: Those of ``torch.compile``; None does not compile.
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
    """Whether FSDP2 shards a module on its own: a block. The embedding table and both its users stay together.

    Args:
        module: A module of an ``ESM2``.
    """
    return isinstance(module, ESM2Block)


def _changed(forward: Forward, activation_checkpointing: bool, compile_arguments: Mapping[str, Any] | None) -> Forward:
    if compile_arguments is not None:
        forward = torch.compile(forward, **{"dynamic": True, **compile_arguments})
    return _recomputing(forward) if activation_checkpointing else forward


def _recomputing(forward: Forward) -> Forward:
    def recomputing(block: ESM2Block, x: Tensor, layout: Layout) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(block, x, layout)
        # Blocks draw nothing, so that there is no generator to be put back.
        arguments: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        recomputed: Tensor = checkpoint(forward, block, x, layout, **arguments)
        return recomputed

    return recomputing
