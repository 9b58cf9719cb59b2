"""Runs a model over many proteins in batches without padding, and returns what was asked of each."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from plm_composer.errors import UserError
from plm_composer.model.esm2 import ESM2
from plm_composer.model.packed_linears import packed_linears
from plm_composer.model.sending import send
from plm_composer.terminal.progress import ProgressBar
from plm_composer.tokenizer import CLS_ID, EOS_ID, encode

IntArray = npt.NDArray[np.int64]
_TOKENS_STEP = 128
"""On a CPU a batch's tokens are a multiple of it: each new number costs memory, as fragments and compiled kernels."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a model computes, and how much at a time.

    Args:
        device: Name of a torch device.
        autocast_dtype: Data type of autocast; None for the model's own precision.
        batch_tokens: Maximum number of tokens in a batch; a longer protein is a batch of its own.
        progress: Whether to draw a progress bar on stderr.
    """

    device: str = "cpu"
    autocast_dtype: torch.dtype | None = None
    batch_tokens: int = 16384
    progress: bool = False

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context for a forward pass."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=self.autocast_dtype)


@dataclasses.dataclass(frozen=True)
class Query:
    """A protein, and the positions whose logits are wanted.

    Args:
        token_ids: Tokens, ``<cls>`` and ``<eos>`` included and masks in place, shape (length,), int64.
        positions: Indices into ``token_ids``, sorted, shape (positions,), int64.
    """

    token_ids: IntArray
    positions: IntArray


def tokenize(residues: bytes | str) -> IntArray:
    """Tokens of a whole protein: ``<cls>``, the residues, ``<eos>``, shape (residues + 2,), int64."""
    residues = residues.encode() if isinstance(residues, str) else residues
    return np.concatenate([[CLS_ID], encode(residues).astype(np.int64), [EOS_ID]])


def group_by_tokens(lengths: Sequence[int] | IntArray, batch_tokens: int) -> Iterator[list[int]]:
    """Groups proteins, longest first, into batches of at most ``batch_tokens`` tokens.

    Proteins of similar length share a batch; and memory, if too small, runs out at once.

    Args:
        lengths: Number of tokens of each protein, shape (proteins,).
        batch_tokens: Maximum number of tokens in a batch; a longer protein is a batch of its own.

    Yields:
        Indices of the proteins of one batch.
    """
    group: list[int] = []
    tokens = 0
    for index in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        length = int(lengths[index])
        if group and tokens + length > batch_tokens:
            yield group
            group, tokens = [], 0
        group.append(index)
        tokens += length
    if group:
        yield group


def bounds_of(lengths: Sequence[int]) -> Tensor:
    """``cu_seqlens`` of proteins end to end: index of each one's first token, then the number of tokens, int32."""
    return torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


@dataclasses.dataclass(frozen=True)
class _Batch:
    """A packed batch of some of the proteins.

    Args:
        members: Index of each protein.
        sizes: Number of tokens of each; what fills up the batch comes after them.
        inputs: The arguments of a model, on its device.
    """

    members: list[int]
    sizes: list[int]
    inputs: dict[str, Any]


@contextlib.contextmanager
def prepared(model: ESM2, place: Place) -> Iterator[None]:
    """Makes a model ready for many batches: on a CPU, lays out the weights of its linear layers once for all.

    The copies take as much memory as the weights. Weights must not change meanwhile.

    Args:
        model: The model; it is moved to ``place.device``.
        place: Where to compute.
    """
    model.to(place.device).eval()
    with packed_linears(model, place.autocast_dtype or model.embedding.weight.dtype):
        yield


def predict_logits(
    model: ESM2,
    lengths: Sequence[int] | IntArray,
    query_of: Callable[[int], Query],
    place: Place = Place(),
    description: str = "predict",
) -> Iterator[tuple[int, Tensor]]:
    """Computes logits at some positions of many proteins.

    Queries are made when their batch is due, so that a million masked copies of a protein take no memory.

    Args:
        model: The model; it is moved to ``place.device`` and set to evaluation mode.
        lengths: Number of tokens of each query, shape (queries,).
        query_of: Makes a query from its index.
        place: Where to compute.
        description: Label of the progress bar.

    Yields:
        Index of a query and its logits, (positions, 33), fp32 or better, on the CPU; longest proteins first.
    """
    model = model.to(place.device).eval()
    with ProgressBar(total=len(lengths), desc=description, unit=" proteins", disable=not place.progress) as bar:
        for group in group_by_tokens(lengths, place.batch_tokens):
            queries = [query_of(index) for index in group]
            batch = _make_batch(group, [query.token_ids for query in queries], place)
            starts = np.cumsum(batch.sizes) - batch.sizes
            positions = np.concatenate([query.positions + start for query, start in zip(queries, starts, strict=True)])
            # Not around the loop: a generator would leave its caller in inference mode.
            with torch.inference_mode(), place.autocast():
                logits = model(**batch.inputs, positions=send(torch.from_numpy(positions), place.device)).cpu()
            yield from zip(group, logits.split([len(query.positions) for query in queries]), strict=True)
            bar.update(len(group))


def predict_hidden(
    model: ESM2,
    lengths: Sequence[int] | IntArray,
    tokens_of: Callable[[int], IntArray],
    place: Place = Place(),
    layers: Sequence[int] = (-1,),
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[int, Tensor]]:
    """Computes hidden states of many proteins, token by token.

    Args:
        model: The model; it is moved to ``place.device`` and set to evaluation mode.
        lengths: Number of tokens of each protein, shape (proteins,).
        tokens_of: Makes a protein's tokens from its index, when its batch is due.
        place: Where to compute.
        layers: Layers as for ``layer_numbers``.
        dtype: Data type of the results; converted before they are copied to the host.

    Yields:
        Index of a protein and its hidden states, (tokens, layers, hidden_size), on the CPU; longest proteins first.

    Raises:
        UserError: The model has no such layer.
    """
    numbers = layer_numbers(layers, model.config.num_hidden_layers)

    def states() -> Iterator[tuple[_Batch, Tensor]]:
        for batch in _batches(model, lengths, tokens_of, place):
            with torch.inference_mode(), place.autocast():
                hidden = torch.stack([each.to(dtype) for each in _layer_states(model, batch, numbers)], dim=1)
            yield batch, hidden

    for batch, hidden in _on_host(states()):
        yield from zip(batch.members, torch.split(hidden[: sum(batch.sizes)], batch.sizes), strict=True)


def predict_sums(
    model: ESM2,
    lengths: Sequence[int] | IntArray,
    tokens_of: Callable[[int], IntArray],
    ranges: IntArray,
    place: Place = Place(),
    layers: Sequence[int] = (-1,),
) -> Iterator[tuple[int, Tensor]]:
    """Computes the sum of the hidden states of some tokens of each protein, on the device.

    One vector of each protein is copied to the host. The sums are those of ``embedding_bag``, which adds a protein's
    tokens in order: unlike sums by atomic additions, they are the same each time on a GPU, too.

    Args:
        model: The model; it is moved to ``place.device`` and set to evaluation mode.
        lengths: Number of tokens of each protein, shape (proteins,).
        tokens_of: Makes a protein's tokens from its index, when its batch is due.
        ranges: First token to add and the one after the last, (proteins, 2).
        place: Where to compute.
        layers: Layers as for ``layer_numbers``.

    Yields:
        Index of a protein and its sums, (layers, hidden_size), fp32, on the CPU; longest proteins first.

    Raises:
        UserError: The model has no such layer.
    """
    numbers = layer_numbers(layers, model.config.num_hidden_layers)

    def sums() -> Iterator[tuple[_Batch, Tensor]]:
        for batch in _batches(model, lengths, tokens_of, place):
            first, last = ranges[batch.members].T + np.cumsum(batch.sizes) - batch.sizes
            rows = np.concatenate([np.arange(start, stop) for start, stop in zip(first, last, strict=True)])
            edges = np.cumsum(last - first) - (last - first)
            chosen, bags = (send(torch.from_numpy(each), place.device) for each in (rows, edges))
            with torch.inference_mode(), place.autocast():
                states = _layer_states(model, batch, numbers)
                added = torch.stack([F.embedding_bag(chosen, x.float(), bags, mode="sum") for x in states], dim=1)
            yield batch, added

    for batch, sums_of_batch in _on_host(sums()):
        yield from zip(batch.members, sums_of_batch, strict=True)


def layer_numbers(layers: Sequence[int], last: int) -> list[int]:
    """Numbers of layers, 0 for the embedding and ``last`` for the last one, after the final norm.

    Args:
        layers: As fair-esm and transformers number them; -1 is the last one.
        last: Number of the model's layers.

    Raises:
        UserError: There is no such layer, or one is named twice.
    """
    numbers = [layer + last + 1 if layer < 0 else layer for layer in layers]
    if wrong := [layer for layer, number in zip(layers, numbers, strict=True) if not 0 <= number <= last]:
        raise UserError(f"the model has no layer {wrong[0]}: 0 is the embedding, {last} or -1 the last layer")
    if not numbers or len(set(numbers)) < len(numbers):
        raise UserError(f"layers are {', '.join(map(str, layers)) or 'none'}: name at least one, and each once")
    return numbers


def _layer_states(model: ESM2, batch: _Batch, numbers: Sequence[int]) -> list[Tensor]:
    if list(numbers) == [model.config.num_hidden_layers]:  # as a class of the user's defines it, perhaps
        return [model.hidden_states(**batch.inputs)]
    return model.layer_states(**batch.inputs, layers=numbers)


def _batches(
    model: ESM2, lengths: Sequence[int] | IntArray, tokens_of: Callable[[int], IntArray], place: Place
) -> Iterator[_Batch]:
    model.to(place.device).eval()
    with ProgressBar(total=len(lengths), desc="embed", unit=" proteins", disable=not place.progress) as bar:
        for group in group_by_tokens(lengths, place.batch_tokens):
            yield _make_batch(group, [tokens_of(index) for index in group], place)
            bar.update(len(group))


def _make_batch(members: list[int], tokens: Sequence[IntArray], place: Place) -> _Batch:
    sizes = [len(each) for each in tokens]
    filling = -sum(sizes) % _TOKENS_STEP if torch.device(place.device).type == "cpu" else 0
    filled = [*sizes, filling] if filling else sizes
    inputs = {
        "input_ids": send(torch.from_numpy(np.concatenate([*tokens, np.full(filling, EOS_ID)])), place.device),
        "cu_seqlens": send(bounds_of(filled), place.device),
        "max_seqlen": max(filled),
        "lengths": filled,
    }
    return _Batch(members, sizes, inputs)


def _on_host(results: Iterator[tuple[_Batch, Tensor]]) -> Iterator[tuple[_Batch, Tensor]]:
    """Copies each batch's result to the host once the next batch is queued, so that a GPU never waits for the host."""
    waiting: tuple[_Batch, Tensor, Callable[[], object]] | None = None
    for batch, result in results:
        copy, arrived = result.to("cpu", non_blocking=result.is_cuda), _nothing
        if result.is_cuda:
            make_event: Any = torch.cuda.Event
            event = make_event()
            event.record(torch.cuda.current_stream(result.device))
            arrived = event.synchronize
        if waiting is not None:
            waiting[2]()
            yield waiting[:2]
        waiting = batch, copy, arrived
    if waiting is not None:
        waiting[2]()
        yield waiting[:2]


def _nothing() -> None:
    """The wait for a copy that never left the host."""
