"""Costs of a model: parameters, floating-point operations, and memory in training.

The memory of a process rises while the forward pass saves tensors for the backward pass, and while the backward pass
replaces these by gradients. ``predict`` computes it at each moment that can be the peak, and breaks the peak down.
Tests compare the prediction with what autograd saves and with the peak of a process (``benchmarks/memory.py``).

Only tensors are counted. A GPU's context, the allocator's overhead (fragmentation on a GPU, freed memory that glibc
keeps), evaluation, and the data loader's processes come on top.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from plm_composer.model.config import VOCABULARY_SIZE, ESM2Config
from plm_composer.model.layer_drop import drop_rates, keep_probability
from plm_composer.model.protein_groups import groups_of_lengths
from plm_composer.model.tiled_attention import count_saved_scores

_FP32 = 4
_BF16 = 2


def describe_model(config: ESM2Config) -> str:
    """Describes a model in one line: sizes, number of parameters, and fields that differ from ESM2.

    Args:
        config: The model's config.
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
    """Number of parameters, including the untrained contact regression if the config has one."""
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
    if config.embedding_residual:
        block += 2
    head = width * width + 3 * width + VOCABULARY_SIZE
    tables = VOCABULARY_SIZE * width * (1 if config.tie_word_embeddings else 2)
    contact = layers * config.num_attention_heads + 1 if config.contact_head else 0
    contact += layers - 1 if config.value_residual else 0
    return layers * block + norm + head + tables + contact


def block_matrices(config: ESM2Config) -> int:
    """Number of weights in one block's matrices: query, key, value and output projections, and the feed-forward."""
    return config.hidden_size * (4 * config.attention_size + config.up_size + config.intermediate_size)


def training_flops(config: ESM2Config, lengths: Iterable[int], masked_tokens: int) -> int:
    """Floating-point operations of one forward and backward pass over unpadded proteins.

    Counts the multiplications and additions of every matrix product (2 per pair), the backward pass as twice the
    forward pass, attention as the square of each protein's own length (half of it in a causal model), and the head only
    on tokens in the loss.
    The mean share of work that ``layer_drop`` skips is subtracted. Recomputation, norms, activations, short
    convolutions and the optimizer are left out, as is usual for model FLOPs.

    Args:
        config: The model's config.
        lengths: Number of tokens of each protein, including ``<cls>`` and ``<eos>``.
        masked_tokens: Number of tokens in the loss.
    """
    lengths = list(lengths)
    width = config.hidden_size
    per_token = 2 * block_matrices(config)
    pairs = sum(length * (length + 1) // 2 if config.causal else length * length for length in lengths)
    attention = 4 * config.attention_size * pairs
    head = 2 * (width * width + width * VOCABULARY_SIZE)
    blocks = sum(keep_probability(rate, len(lengths)) for rate in drop_rates(config))
    return round(3 * (blocks * (per_token * sum(lengths) + attention) + head * masked_tokens))


@dataclasses.dataclass(frozen=True)
class Workload:
    """The work of one process in one training step.

    Args:
        lengths: Number of positions of each protein of a microbatch, including padding in a padded batch.
        mask_rate: Share of the positions that the loss counts, 0 to 1.
        bf16: Whether matrix products are bf16, by autocast, instead of fp32.
        padded: Whether batches are padded instead of packed.
        on_cpu: Whether training is on a CPU, whose attention may save scores.
        checkpointing: Whether autograd saves only the inputs of blocks.
        accumulates: Whether a step has several microbatches, so that gradients exist when the next one begins.
        optimizer_states: Number of fp32 values that the optimizer keeps per parameter, on average.
        processes: Number of processes that train together.
        sharded: Whether the processes divide weights, gradients and optimizer states (FSDP2) instead of each holding
            all of them (DDP).
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
        """Number of positions in a microbatch."""
        return sum(self.lengths)

    @property
    def width(self) -> int:
        """Bytes per number in matrix products."""
        return _BF16 if self.bf16 else _FP32


@dataclasses.dataclass(frozen=True)
class Memory:
    """Memory of one process at its peak, in bytes.

    Attributes:
        weights: Weights, fp32.
        gradients: Gradients that exist at the peak, fp32, and DDP's buckets.
        optimizer: States of the optimizer.
        activations: Tensors that autograd saves for the backward pass, including bf16 copies of weights.
        working: Temporary tensors: gradients of activations, and weights and gradients that FSDP2 has gathered.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    working: int

    @property
    def total(self) -> int:
        """The sum of all parts, in bytes."""
        return sum(dataclasses.astuple(self))


def predict(config: ESM2Config, workload: Workload) -> Memory:
    """Predicts the peak memory of a training step after the first, when the optimizer's states exist.

    Args:
        config: The model's config.
        workload: The work of a step.
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
    """Bytes that autograd has saved at the end of the forward pass, without the parameters themselves.

    With ``layer_drop`` this is the maximum, where a draw drops nothing.
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
    """Bytes that one block saves for its backward pass, including its input, without copies of its weights.

    For each position: the tensors that both norms save, and their outputs in the working precision; the input of a
    short convolution; the stream before the embedding is mixed in; attention's share; and the feed-forward's inner
    width before and after the GELU. A gate saves its two halves, the SiLU of one, and their product.
    """
    norms = 2 * (_norm(config) + workload.width * config.hidden_size)
    convolution = workload.width * config.hidden_size if config.short_convolution else 0
    unmixed = _FP32 * config.hidden_size if config.embedding_residual else 0
    inner = 4 if config.feed_forward == "swiglu" else 2
    feed_forward = inner * workload.width * config.intermediate_size
    return workload.positions * (norms + convolution + unmixed + feed_forward) + attention_activations(config, workload)


def _norm(config: ESM2Config) -> int:
    """Bytes that a norm saves per position: its input, the residual stream in fp32, and its mean and deviation.

    torch's RMSNorm is not a single kernel: it computes one number, and saves the quotient too.
    """
    if config.normalization == "rmsnorm":
        return 2 * _FP32 * config.hidden_size + _FP32
    return _FP32 * config.hidden_size + 2 * _FP32


def _head_norms(config: ESM2Config, workload: Workload) -> int:
    """Bytes that the norms of queries and keys save per position, without their inputs; always in fp32."""
    if not config.qk_norm:
        return 0
    if config.normalization == "rmsnorm":
        wide = 2 if workload.bf16 else 1
        return 2 * _FP32 * (wide * config.attention_size + config.num_attention_heads)
    return 2 * _FP32 * 2 * config.num_attention_heads


def attention_activations(config: ESM2Config, workload: Workload) -> int:
    """Bytes that one block's attention saves: tensors in the working precision, and in some cases probabilities.

    Rotated queries and keys are separate tensors. Values, and keys without rotation, are views of the projection to all
    three, which is saved as a whole; with a value residual, mixed values are another tensor, though not in the first
    block. The result is saved once for attention and the output projection. Only attention on CPUs saves probabilities,
    in packed batches, up to a limit.
    """
    made = (2 if config.position_embedding_type == "rotary" else 1) + (1 if config.value_residual else 0)
    tensors = (made + 3 + 1) * workload.width * config.attention_size + _head_norms(config, workload)
    scores = 0
    if workload.on_cpu and not workload.padded:
        heads = config.num_attention_heads
        scores = count_saved_scores(groups_of_lengths(workload.lengths, heads), heads)
    return workload.positions * tensors + workload.width * scores


def block_copies(config: ESM2Config, workload: Workload) -> int:
    """Bytes of the bf16 copies of a block's matrices that autocast makes and autograd saves.

    FSDP2 on a GPU already gathers weights in bf16, and frees them afterwards.
    """
    if not workload.bf16 or (workload.sharded and not workload.on_cpu):
        return 0
    return _BF16 * block_matrices(config)


def _moments(config: ESM2Config, workload: Workload) -> Iterator[tuple[int, int, int]]:
    """Yields gradients, activations and working memory, in bytes, at each moment that can be the peak.

    From the last block to the first, the backward pass replaces activations by gradients at a constant rate, so the
    peak is at one of the two ends.
    """
    blocks, stream = config.num_hidden_layers, _FP32 * workload.positions * config.hidden_size
    block, copies = block_activations(config, workload), block_copies(config, workload)
    head = _FP32 * (config.hidden_size**2 + VOCABULARY_SIZE * config.hidden_size)
    block_gradients = _FP32 * block_matrices(config)
    parameters = _FP32 * parameter_count(config)
    tables = _tables(config, workload)
    kept = kept_for_backward(config, workload)

    # The head's backward pass is done. The final norm holds the gradient of its output, zero where nothing is
    # predicted, and that of its input.
    yield head, kept - _head_activations(config, workload), 2 * stream
    if workload.checkpointing:
        # A block in the forward pass. Autocast holds its copies of all weights until the pass ends.
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
    """Yields new gradients, freed activations and working memory, in bytes, at the peaks of a block's backward pass.

    Attention's backward pass comes later, when more memory has been freed than it needs.
    """
    stream = _FP32 * workload.positions * config.hidden_size
    inner = workload.width * workload.positions * config.intermediate_size
    outer = workload.width * workload.positions * config.up_size
    matrix = config.hidden_size * config.intermediate_size
    # Second linear layer: gradients of the residual stream, its bf16 copy, of the inner activations and of the weights.
    cast = workload.positions * config.hidden_size * _BF16 if workload.bf16 else 0
    yield 0, 0, stream + cast + inner + workload.width * matrix
    # Activation: the gradient of its output, and that of its input, which for a gate has two halves.
    yield _FP32 * matrix, inner, stream + inner + outer


def _head_activations(config: ESM2Config, workload: Workload) -> int:
    """Bytes that the head saves, for predicted positions only: input, around the GELU, the norm's, and logits."""
    wide = _FP32 * (config.hidden_size + VOCABULARY_SIZE)
    each = 3 * workload.width * config.hidden_size + wide
    copies = _BF16 * config.hidden_size**2 if workload.bf16 else 0
    return round(workload.mask_rate * workload.positions) * each + copies


def _tables(config: ESM2Config, workload: Workload) -> int:
    """Bytes of position tables: fp32 rotary tables, and ALiBi's bias or a causal mask in padded batches.

    Padded batches have one rotary table for all proteins. All blocks share the tables, except with ``layer_drop``,
    where each block computes other proteins.
    """
    longest = max(workload.lengths)
    if config.position_embedding_type == "rotary":
        tables = _FP32 * (longest if workload.padded else workload.positions) * config.head_size
        if config.causal and workload.padded:
            tables += workload.width * len(workload.lengths) * longest**2
    elif workload.padded:
        tables = workload.width * len(workload.lengths) * config.num_attention_heads * longest**2
    else:
        tables = 0
    return tables * config.num_hidden_layers if config.layer_drop else tables


def _gathered(config: ESM2Config, workload: Workload) -> int:
    """Bytes of unsharded weights and gradients that FSDP2 holds beside its shards.

    These are the current block, the next block, and the buffer for gathering; a block's gradients, and their fp32 copy
    for scattering; and the embedding table and head, which stay gathered.
    """
    if not workload.sharded or workload.processes == 1:
        return 0
    block = block_matrices(config)
    rest = parameter_count(config) - config.num_hidden_layers * block
    width = _FP32 if workload.on_cpu else workload.width
    return width * (4 * block + rest) + _FP32 * block
