"""What a model costs: parameters, floating-point operations, and the memory that training takes.

What a process holds rises while the forward pass keeps tensors for the backward pass, and while the backward pass
trades these for gradients. ``predict`` follows it through the moments that can be the highest, and breaks the highest
down. Tests hold what autograd keeps, and the peak of a process (``benchmarks/memory.py``), against the real ones.

Counted are tensors. A GPU's context, what an allocator holds beyond the tensors (a GPU's by fragmentation, glibc's by
keeping what is freed), evaluation, and the data loader's processes come on top.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from plm_composer.model.config import VOCABULARY_SIZE, ESM2Config
from plm_composer.model.layer_drop import drop_rates, keep_probability
from plm_composer.model.protein_groups import groups_of_lengths
from plm_composer.model.tiled_attention import kept_scores

_FP32 = 4
_BF16 = 2


def describe_model(config: ESM2Config) -> str:
    """One line for people: sizes, number of parameters, and what differs from ESM2.

    Args:
        config: The model.
    """
    sizes = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size)
    standard = ESM2Config(*sizes).to_mapping()
    others = [f"{name} {value}" for name, value in config.to_mapping().items() if value != standard[name]]
    differs = f"; {', '.join(others)}" if others else ""
    return (
        f"model: {parameter_count(config):,} parameters, {config.num_hidden_layers} layers, {config.hidden_size} wide, "
        f"{config.num_attention_heads} heads of {config.head_size}, feed-forward {config.intermediate_size}{differs}"
    )


def parameter_count(config: ESM2Config) -> int:
    """Number of parameters, the untrained contact regression included where the config has one."""
    width, layers = config.hidden_size, config.num_hidden_layers
    norm = 2 * width if config.norm_bias and config.normalization == "layernorm" else width
    block = block_matrices(config) + 2 * norm + width * config.short_convolution
    if config.qkv_bias:
        block += 3 * config.attention_size
    if config.intermediate_bias:
        block += config.up_size
    if config.output_bias:
        block += 2 * width
    if config.qk_norm:
        block += 2 * config.head_size
    head = width * width + 3 * width + VOCABULARY_SIZE
    tables = VOCABULARY_SIZE * width * (1 if config.tie_word_embeddings else 2)
    contact = layers * config.num_attention_heads + 1 if config.contact_head else 0
    return layers * block + norm + head + tables + contact


def block_matrices(config: ESM2Config) -> int:
    """Number of weights in one block's matrix products: queries, keys and values, output, and the feed-forward's."""
    return config.hidden_size * (4 * config.attention_size + config.up_size + config.intermediate_size)


def training_flops(config: ESM2Config, lengths: Iterable[int], masked_tokens: int) -> int:
    """Floating-point operations of one forward and backward pass over unpadded proteins.

    Counts the multiplications and additions of every matrix product (2 per pair), the backward pass as twice the
    forward one, attention as the square of each protein's own length, and the head on masked tokens only.
    What ``layer_drop`` leaves out in the mean is not counted.
    Recomputation, norms, activations, short convolutions and the optimizer are left out, as is usual for model FLOPs.

    Args:
        config: The model.
        lengths: Tokens of each protein, ``<cls>`` and ``<eos>`` included.
        masked_tokens: Tokens that the loss counts.
    """
    lengths = list(lengths)
    width = config.hidden_size
    per_token = 2 * block_matrices(config)
    attention = 4 * config.attention_size * sum(length * length for length in lengths)
    head = 2 * (width * width + width * VOCABULARY_SIZE)
    blocks = sum(keep_probability(rate, len(lengths)) for rate in drop_rates(config))
    return round(3 * (blocks * (per_token * sum(lengths) + attention) + head * masked_tokens))


@dataclasses.dataclass(frozen=True)
class Workload:
    """What a process does in one training step.

    Args:
        lengths: Positions of each protein of a microbatch, padding included where the batch is padded.
        mask_rate: Share of the positions that the loss counts.
        bf16: Matrix products in bf16 by autocast, rather than in fp32.
        padded: Padded batches, rather than packed ones.
        on_cpu: Trains on a CPU, whose attention may keep scores.
        checkpointing: Keep only the inputs of blocks.
        accumulates: Several microbatches a step, so that gradients are there when the next one begins.
        optimizer_states: fp32 values that the optimizer keeps for each parameter, on average.
        processes: Number of processes that train together.
        sharded: They divide weights, gradients and optimizer states (FSDP2), rather than keep them whole (DDP).
    """

    lengths: Sequence[int]
    mask_rate: float = 0.15
    bf16: bool = False
    padded: bool = False
    on_cpu: bool = True
    checkpointing: bool = False
    accumulates: bool = False
    optimizer_states: float = 2.0
    processes: int = 1
    sharded: bool = False

    @property
    def positions(self) -> int:
        """Positions that a microbatch computes."""
        return sum(self.lengths)

    @property
    def width(self) -> int:
        """Bytes of a number in matrix products."""
        return _BF16 if self.bf16 else _FP32


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes that one process holds when it holds most.

    Attributes:
        weights: In fp32.
        gradients: In fp32, those that are there at that moment, and DDP's buckets.
        optimizer: The optimizer's states.
        activations: What autograd keeps for the backward pass, with the bf16 copies of weights among it.
        working: What comes and goes: gradients of activations, and what FSDP2 has gathered.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    working: int

    @property
    def total(self) -> int:
        """The sum."""
        return sum(dataclasses.astuple(self))


def predict(config: ESM2Config, workload: Workload) -> Memory:
    """Predicts the peak of a training step after the first, when the optimizer has its states.

    Args:
        config: The model.
        workload: What is done with it.
    """
    ranks = workload.processes if workload.sharded else 1
    parameters = _FP32 * parameter_count(config)
    buckets = parameters if workload.processes > ranks else 0
    return max(
        (
            Memory(
                weights=parameters // ranks,
                gradients=(parameters if workload.accumulates else gradients) // ranks + buckets,
                optimizer=round(workload.optimizer_states * parameters) // ranks,
                activations=activations,
                working=working + _gathered(config, workload),
            )
            for gradients, activations, working in _moments(config, workload)
        ),
        key=lambda memory: memory.total,
    )


def kept_for_backward(config: ESM2Config, workload: Workload) -> int:
    """Bytes that autograd holds on to when the forward pass ends, parameters themselves not counted.

    With ``layer_drop`` this is the most: that of a draw that drops nothing.
    """
    blocks = config.num_hidden_layers
    stream = _FP32 * workload.positions * config.hidden_size
    if workload.checkpointing:
        kept = blocks * stream
    else:
        kept = blocks * (block_activations(config, workload) + block_copies(config, workload))
    final_norm = workload.positions * _norm(config)
    return kept + final_norm + _head_activations(config, workload) + _tables(config, workload)


def block_activations(config: ESM2Config, workload: Workload) -> int:
    """Bytes that one block keeps for its backward pass, its input included and copies of its weights not.

    For each position: what both norms keep, and what they give, in the working precision; what goes into a short
    convolution; attention's share; and the feed-forward's inner width before and after the GELU. A gate keeps its
    two halves, the SiLU of one, and their product.
    """
    norms = 2 * (_norm(config) + workload.width * config.hidden_size)
    convolution = workload.width * config.hidden_size * (config.short_convolution > 0)
    inner = 4 if config.feed_forward == "swiglu" else 2
    feed_forward = inner * workload.width * config.intermediate_size
    return workload.positions * (norms + convolution + feed_forward) + attention_activations(config, workload)


def _norm(config: ESM2Config) -> int:
    """Bytes that a norm keeps of a position: its input, the residual stream in fp32, and its mean and deviation.

    torch's RMSNorm is no kernel of its own: it finds one number, and keeps what it has divided by it too.
    """
    if config.normalization == "rmsnorm":
        return 2 * _FP32 * config.hidden_size + _FP32
    return _FP32 * config.hidden_size + 2 * _FP32


def _head_norms(config: ESM2Config, workload: Workload) -> int:
    """Bytes that the norms of queries and keys keep of a position, beside their inputs; in fp32, whatever comes in."""
    if not config.qk_norm:
        return 0
    if config.normalization == "rmsnorm":
        wide = 2 if workload.bf16 else 1
        return 2 * _FP32 * (wide * config.attention_size + config.num_attention_heads)
    return 2 * _FP32 * 2 * config.num_attention_heads


def attention_activations(config: ESM2Config, workload: Workload) -> int:
    """Bytes that one block's attention keeps: tensors in the working precision, and maybe probabilities.

    Rotated queries and keys are tensors of their own; values are a view of the projection to all three, which stays as
    a whole, and keys too where nothing is rotated; the result is what the output projection keeps too. Probabilities
    are kept by attention on CPUs alone, where batches are packed, up to a bound.
    """
    rotated = 2 if config.position_embedding_type == "rotary" else 1
    tensors = (rotated + 3 + 1) * workload.width * config.attention_size + _head_norms(config, workload)
    scores = 0
    if workload.on_cpu and not workload.padded:
        heads = config.num_attention_heads
        scores = kept_scores(groups_of_lengths(workload.lengths, heads), heads)
    return workload.positions * tensors + workload.width * scores


def block_copies(config: ESM2Config, workload: Workload) -> int:
    """Bytes of the bf16 copies that autocast makes of a block's matrices, and autograd keeps.

    FSDP2 on a GPU gathers weights in bf16 already, and frees what it has gathered.
    """
    if not workload.bf16 or (workload.sharded and not workload.on_cpu):
        return 0
    return _BF16 * block_matrices(config)


def _moments(config: ESM2Config, workload: Workload) -> Iterator[tuple[int, int, int]]:
    """The moments that can be the highest: gradients so far, activations and working space, in bytes.

    Between its last block and its first, the backward pass turns a block's activations into its gradients at an even
    rate, so that one of the ends is the highest.
    """
    blocks, stream = config.num_hidden_layers, _FP32 * workload.positions * config.hidden_size
    block, copies = block_activations(config, workload), block_copies(config, workload)
    head = _FP32 * (config.hidden_size**2 + VOCABULARY_SIZE * config.hidden_size)
    block_gradients = _FP32 * block_matrices(config)
    parameters = _FP32 * parameter_count(config)
    tables = _tables(config, workload)
    kept = kept_for_backward(config, workload)

    # The head is done, and the final norm turns the gradient of its output, zero where nothing is predicted, into that
    # of its input.
    yield head, kept - _head_activations(config, workload), 2 * stream
    if workload.checkpointing:
        # A block in the forward pass. Autocast keeps its copies of all weights until the pass ends.
        inside = stream + workload.width * workload.positions * (
            config.hidden_size + config.up_size + config.intermediate_size
        )
        yield 0, blocks * stream + tables, blocks * copies + inside
    for index in (blocks - 1, 0):
        kept = (index * stream + block + copies) if workload.checkpointing else (index + 1) * (block + copies)
        gradients = head + (blocks - 1 - index) * block_gradients
        for more, freed, working in _feed_forward_backward(config, workload):
            yield gradients + more, kept - freed + tables, working
    yield parameters, 0, 0


def _feed_forward_backward(config: ESM2Config, workload: Workload) -> Iterator[tuple[int, int, int]]:
    """Where a block's backward pass is highest: new gradients, activations freed, and working space, in bytes.

    Attention's part comes later, when more has been freed than it needs.
    """
    stream = _FP32 * workload.positions * config.hidden_size
    inner = workload.width * workload.positions * config.intermediate_size
    outer = workload.width * workload.positions * config.up_size
    matrix = config.hidden_size * config.intermediate_size
    # Through the second linear layer: the residual stream's gradient, its bf16 copy, the inner one, and the weights'.
    cast = workload.positions * config.hidden_size * _BF16 if workload.bf16 else 0
    yield 0, 0, stream + cast + inner + workload.width * matrix
    # Through the activation, which takes one inner gradient and makes another, or those of both halves of a gate.
    yield _FP32 * matrix, inner, stream + inner + outer


def _head_activations(config: ESM2Config, workload: Workload) -> int:
    """Bytes that the head keeps, for predicted positions alone: its input, around the GELU, the norm's, the logits'."""
    wide = _FP32 * (config.hidden_size + VOCABULARY_SIZE)
    each = 3 * workload.width * config.hidden_size + wide
    copies = _BF16 * config.hidden_size**2 if workload.bf16 else 0
    return round(workload.mask_rate * workload.positions) * each + copies


def _tables(config: ESM2Config, workload: Workload) -> int:
    """Bytes of what tells positions, shared by all blocks: rotary tables, fp32, or ALiBi's matrix in padded batches.

    Padded batches have one rotary table for all proteins. With ``layer_drop``, each block has proteins of its own.
    """
    longest = max(workload.lengths)
    if config.position_embedding_type == "alibi":
        tables = workload.width * len(workload.lengths) * config.num_attention_heads * longest**2 * workload.padded
    else:
        tables = _FP32 * (longest if workload.padded else workload.positions) * config.head_size
    return tables * (config.num_hidden_layers if config.layer_drop else 1)


def _gathered(config: ESM2Config, workload: Workload) -> int:
    """Bytes of whole weights and gradients that FSDP2 holds beside its shards.

    That is the block at work, the next one, and the buffer that gathers; a block's gradients, and their fp32 copy that
    is scattered; and the table and head, which stay whole.
    """
    if not workload.sharded or workload.processes == 1:
        return 0
    block = block_matrices(config)
    rest = parameter_count(config) - config.num_hidden_layers * block
    width = _FP32 if workload.on_cpu else workload.width
    return width * (4 * block + rest) + _FP32 * block
