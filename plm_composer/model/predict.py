"""Runs a model over many proteins in batches without padding, and returns what was asked of each."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from plm_composer.errors import UserError
from plm_composer.model.esm2 import ESM2
from plm_composer.tokenizer import CLS_ID, EOS_ID, encode

IntArray = npt.NDArray[np.int64]
T = TypeVar("T")


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
    for group, queries in _batches(lengths, query_of, place, description):
        sizes = [len(query.token_ids) for query in queries]
        starts = np.cumsum(sizes) - sizes
        positions = np.concatenate([query.positions + start for query, start in zip(queries, starts, strict=True)])
        # Not around the loop: a generator would leave its caller in inference mode.
        with torch.inference_mode(), place.autocast():
            logits = model(
                **_packed([query.token_ids for query in queries], place.device),
                positions=torch.from_numpy(positions).to(place.device),
            ).cpu()
        yield from zip(group, logits.split([len(query.positions) for query in queries]), strict=True)


def predict_hidden(
    model: ESM2,
    lengths: Sequence[int] | IntArray,
    tokens_of: Callable[[int], IntArray],
    place: Place = Place(),
    layer: int = -1,
    description: str = "embed",
) -> Iterator[tuple[int, Tensor]]:
    """Computes the hidden states of many proteins after one layer.

    Args:
        model: The model; it is moved to ``place.device`` and set to evaluation mode.
        lengths: Number of tokens of each protein, shape (proteins,).
        tokens_of: Makes the tokens of a protein, as ``tokenize`` does, from its index.
        place: Where to compute.
        layer: As in fair-esm and transformers: 0 for the embedding, 1 for what the first block returns, and so on; the
            last is after the final norm. Negative numbers count from the end.
        description: Label of the progress bar.

    Yields:
        Index of a protein and its hidden states, (length, hidden_size), fp32 or better, on the CPU; longest proteins
        first.

    Raises:
        UserError: The model has no such layer.
    """
    depth = len(model.blocks)
    if not -depth - 1 <= layer <= depth:
        raise UserError(f"layer {layer}: the model has layers 0 to {depth}, and -1 for the last")
    model = model.to(place.device).eval()
    layer %= depth + 1
    for group, tokens in _batches(lengths, tokens_of, place, description):
        with torch.inference_mode(), place.autocast():
            hidden = _after_layer(model, layer, _packed(tokens, place.device))
            hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32)).cpu()
        yield from zip(group, torch.split(hidden, [len(each) for each in tokens]), strict=True)


def _after_layer(model: ESM2, layer: int, arguments: dict[str, Any]) -> Tensor:
    if layer == len(model.blocks):
        return model.hidden_states(**arguments)
    seen: list[Tensor] = []
    # What the next block is given is what this layer returns.
    hook = model.blocks[layer].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        model.hidden_states(**arguments)
    finally:
        hook.remove()
    return seen[0]


def _packed(tokens: Sequence[IntArray], device: str) -> dict[str, Any]:
    """A model's arguments for proteins end to end."""
    lengths = [len(each) for each in tokens]
    return {
        "input_ids": torch.from_numpy(np.concatenate(tokens)).to(device),
        "cu_seqlens": bounds_of(lengths).to(device),
        "max_seqlen": max(lengths),
        "lengths": lengths,
    }


def _batches(
    lengths: Sequence[int] | IntArray, make: Callable[[int], T], place: Place, description: str
) -> Iterator[tuple[list[int], list[T]]]:
    """Makes batches when they are due, and draws the progress bar."""
    with tqdm(total=len(lengths), desc=description, unit="protein", disable=not place.progress) as bar:
        for group in group_by_tokens(lengths, place.batch_tokens):
            yield group, [make(index) for index in group]
            bar.update(len(group))
