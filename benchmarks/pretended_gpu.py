"""What ``torch.compile`` makes of a block for a GPU, found on a machine without one.

The block is traced on the CPU, forward and backward, with the casts of a GPU's autocast. Inductor then fuses the graphs
as for one H100, which is pretended, and no kernel is run. Private names of torch 2.11 do this: with another version it
may fail.
"""

from __future__ import annotations

import contextlib
import dataclasses
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.exc import BackendCompilerFailed
from torch._functorch import config as autograd_config
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor import config as inductor_config
from torch._inductor.compile_fx import compile_fx_inner
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.exc import InductorError
from torch._inductor.fx_passes.joint_graph import joint_graph_passes
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import BaseSchedulerNode
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_map

from plm_composer.errors import UserError
from plm_composer.model.attention import choose_backend
from plm_composer.model.batch_layouts import PackedLayout
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2

DEVICE = torch.device("cuda", 0)
H100 = types.SimpleNamespace(
    name="NVIDIA H100 80GB HBM3",
    major=9,
    minor=0,
    multi_processor_count=132,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    regs_per_multiprocessor=65536,
    total_memory=80 << 30,
)
"""What Inductor asks of a GPU (NVIDIA H100 datasheet; CUDA C++ Programming Guide, compute capability 9.0)."""

PROTEIN = 256
"""Tokens of each protein in the batch."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel of a compiled block.

    Attributes:
        kind: ``product``, ``attention``, or ``fused``, which Inductor writes itself.
        operations: Names of the operations in it.
        bytes: Memory that it reads and writes.
    """

    kind: str
    operations: tuple[str, ...]
    bytes: int


class _BothAreKnown(Exception):
    """Ends the compilation: nothing is to be run."""


def block_kernels(config: ESM2Config, tokens: int) -> tuple[list[Kernel], list[Kernel]]:
    """Finds the kernels of a block in the forward and in the backward pass, in bf16 under autocast.

    Args:
        config: The model's config. The block is its second: the first leaves to others what they share.
        tokens: Tokens of a microbatch, a multiple of ``PROTEIN``.

    Raises:
        UserError: torch is older than 2.11, the tokens are no such multiple, or the model has ALiBi.
    """
    if not hasattr(autograd_config, "force_non_lazy_backward_lowering"):
        raise UserError(f"torch {torch.__version__} cannot pretend a GPU; use torch 2.11")
    if tokens <= 0 or tokens % PROTEIN:
        raise UserError(f"{tokens} tokens are not a multiple of {PROTEIN}")
    if config.position_embedding_type == "alibi":
        raise UserError(
            "kernels with ALiBi are only in the package flash-attn, which needs a GPU; use rotary positions"
        )
    block = ESM2(dataclasses.replace(config, num_hidden_layers=2, layer_drop=0.0)).blocks[1]
    x = torch.empty(tokens, config.hidden_size, requires_grad=True)
    found: list[list[Kernel]] = []

    def fuse_forward(graph: fx.GraphModule, _: Sequence[Tensor]) -> Callable[..., Any]:
        found.append(_fuse(graph))
        return graph.forward

    def fuse_backward(graph: fx.GraphModule, _: Sequence[Tensor]) -> Callable[..., Any]:
        found.append(_fuse(graph))
        raise _BothAreKnown

    backend = aot_autograd(
        fw_compiler=fuse_forward,
        bw_compiler=fuse_backward,
        decompositions=select_decomp_table,
        partition_fn=_partition,
    )
    settings = autograd_config.patch(force_non_lazy_backward_lowering=True, enable_autograd_cache=False)
    with torch.autocast("cpu", torch.bfloat16), mock.patch.object(F, "layer_norm", _layer_norm_of_gpus), settings:
        layout = _layout(config, tokens)
        compiled = torch.compile(type(block).forward, dynamic=True, fullgraph=True, backend=backend)
        try:
            compiled(block, x, layout)
        except BackendCompilerFailed as failure:
            if not isinstance(failure.inner_exception, _BothAreKnown):
                raise
    forward, backward = found
    return forward, backward


def _layout(config: ESM2Config, tokens: int) -> PackedLayout:
    lengths = [PROTEIN] * (tokens // PROTEIN)
    cu_seqlens = torch.arange(0, tokens + 1, PROTEIN, dtype=torch.int32)
    ids = torch.full((tokens,), 5)
    layout = PackedLayout(ids, cu_seqlens, PROTEIN, config, torch.float32, lengths=lengths)
    layout.attention = choose_backend(DEVICE, torch.bfloat16, head_size=config.head_size)
    layout.embedded = torch.empty(tokens, config.hidden_size, requires_grad=True)
    shape = (tokens, config.num_attention_heads, config.head_size)
    layout.first_values = torch.empty(shape, dtype=torch.bfloat16, requires_grad=True)
    return layout


def _layer_norm_of_gpus(
    x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """What autocast makes of a LayerNorm on GPUs, and not on CPUs: fp32, its result too."""
    return torch.layer_norm(x.float(), shape, weight, bias, eps)


def _partition(joint: fx.GraphModule, inputs: Sequence[Any], **arguments: Any) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Divides a graph into forward and backward as Inductor does."""
    joint_graph_passes(joint)
    return min_cut_rematerialization_partition(joint, inputs, **arguments, compiler="inductor")


def _fuse(graph: fx.GraphModule) -> list[Kernel]:
    """Has Inductor fuse a graph of the CPU as if it were one of the pretended GPU."""
    for node in graph.graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = tree_map(_on_gpu, node.meta["val"])
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": DEVICE}
    inputs = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    kernels: list[Kernel] = []

    def look(lowered: GraphLowering) -> None:
        lowered._update_scheduler()
        nodes = [node for node in lowered.scheduler.nodes if node.get_read_write_buffers_sizes()]
        kernels.extend(_kernel_of(node) for node in nodes)
        raise _BothAreKnown

    with _pretended(), mock.patch.object(GraphLowering, "compile_to_module", look):
        try:
            compile_fx_inner(graph, inputs)
        except InductorError:
            if not kernels:
                raise
    return kernels


def _kernel_of(node: BaseSchedulerNode) -> Kernel:
    parts = [part.node for part in node.get_nodes() if part.node is not None]
    targets = sorted({str(origin.target) for part in parts for origin in part.get_origins()})
    operations = tuple(target.split(".")[-2] for target in targets if "." in target)
    kind = "fused"
    if node.is_extern():
        kind = "attention" if any("attention" in name for name in operations) else "product"
    return Kernel(kind, tuple(dict.fromkeys(operations)), node.get_read_write_buffers_sizes())


def _on_gpu(value: Any) -> Any:
    if not isinstance(value, FakeTensor):
        return value
    with value.fake_mode:
        stored = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="meta")
    return FakeTensor(value.fake_mode, stored, DEVICE)


@contextlib.contextmanager
def _pretended() -> Iterator[None]:
    answers: dict[str, Any] = {
        "torch.cuda.is_available": True,
        "torch.cuda.device_count": 1,
        "torch.cuda.current_device": 0,
        "torch.cuda.get_device_capability": (H100.major, H100.minor),
        "torch.cuda._get_device_properties": H100,
        "torch.cuda._lazy_init": None,
        "torch.cuda._exchange_device": 0,
        "torch.cuda._maybe_exchange_device": 0,
        "torch.cuda.get_rng_state": torch.empty(0),
        "torch.cuda.set_rng_state": None,
        "torch._subclasses.fake_tensor.init_gpu_context": None,
        "torch._inductor.scheduler.has_triton": True,
    }
    with contextlib.ExitStack() as patches:
        for name, answer in answers.items():
            patches.enter_context(mock.patch(name, lambda *_, answer=answer, **__: answer, create=True))
        patches.enter_context(inductor_config.patch(compile_threads=1, fx_graph_cache=False))
        yield
