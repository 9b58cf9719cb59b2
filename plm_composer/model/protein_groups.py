"""Groups of proteins of a packed batch that attend together on a CPU, and copying them out of the batch and back.

Below about a hundred residues the calls cost more than the arithmetic. Proteins that short attend together, padded to
one length, with one matrix per protein and head.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Bounds = Sequence[tuple[int, int]]
"""Index of each protein's first token, and the index after its last."""

TILE = 1 << 20
"""Scores per tile: enough to keep all cores busy, few enough to stay in a shared cache."""
LENGTH_STEP = 8
"""Lengths of groups are multiples of it, and sizes are powers of two, because every new shape compiles a kernel."""
_MOST_PADDING = 1 / 8
"""Largest share of a group's length that may be padding, if that is more than one step."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Proteins that attend together.

    Args:
        rows: Indices of the tokens: a slice for one protein; else (proteins * length,), where padding repeats the
            protein's first token.
        proteins: Number of proteins.
        length: Length to which each protein is padded, in tokens.
        tokens: Indices into ``rows`` that are tokens, shape (tokens of the group,); None without padding.
        padding: True on padding, shape (proteins, length); None without padding.
    """

    rows: slice | Tensor
    proteins: int
    length: int
    tokens: Tensor | None = None
    padding: Tensor | None = None

    def take(self, x: Tensor) -> Tensor:
        """Copies (tokens, heads, size) into one contiguous matrix (length, size) per protein and head."""
        return self.split(x).transpose(1, 2).contiguous().flatten(0, 1)

    def take_transposed(self, x: Tensor) -> Tensor:
        """Copies (tokens, heads, size) into one contiguous matrix (size, length) per protein and head."""
        return self.split(x).permute(0, 2, 3, 1).contiguous().flatten(0, 1)

    def put(self, result: Tensor, matrices: Tensor) -> None:
        """Writes matrices (length, size) to their tokens in ``result``, (tokens, heads, size)."""
        heads = result.shape[1]
        self._put(result, matrices.view(self.proteins, heads, *matrices.shape[1:]).transpose(1, 2))

    def put_transposed(self, result: Tensor, matrices: Tensor) -> None:
        """Writes matrices (size, length) to their tokens in ``result``, (tokens, heads, size)."""
        heads = result.shape[1]
        self._put(result, matrices.view(self.proteins, heads, *matrices.shape[1:]).permute(0, 3, 1, 2))

    def clear_padding(self, matrices: Tensor, dimension: int) -> Tensor:
        """Zeroes the padding along one dimension of the matrices, in place."""
        if self.padding is not None:
            shape = (self.proteins, 1, self.length, 1) if dimension == 1 else (self.proteins, 1, 1, self.length)
            matrices.view(self.proteins, -1, *matrices.shape[1:]).masked_fill_(self.padding.view(shape), 0.0)
        return matrices

    def split(self, x: Tensor) -> Tensor:
        """Gathers (tokens, heads, size) into (proteins, length, heads, size)."""
        chosen = x[self.rows] if isinstance(self.rows, slice) else x.index_select(0, self.rows)
        return chosen.view(self.proteins, self.length, *chosen.shape[1:])

    def _put(self, result: Tensor, values: Tensor) -> None:
        if isinstance(self.rows, slice):
            result[self.rows] = values[0]
        elif self.tokens is None:
            result.index_copy_(0, self.rows, values.flatten(0, 1))
        else:
            result.index_copy_(0, self.rows[self.tokens], values.flatten(0, 1)[self.tokens])


def groups_of_lengths(lengths: Sequence[int], heads: int) -> list[Group]:
    """Groups proteins by their lengths.

    Args:
        lengths: Number of tokens of each protein.
        heads: Number of attention heads.
    """
    ends = itertools.accumulate(lengths)
    return group([(end - length, end) for length, end in zip(lengths, ends, strict=True) if length], heads, TILE)


def groups_of(cu_seqlens: Tensor, heads: int) -> Sequence[Group]:
    """Groups the proteins of a batch, once for all of its layers.

    Args:
        cu_seqlens: Index of each protein's first token, then the number of tokens, shape (proteins + 1,), int32, on
            the CPU.
        heads: Number of attention heads.
    """
    return _groups(cu_seqlens.numpy().tobytes(), heads, TILE)


@functools.lru_cache(maxsize=16)
def _groups(cu_seqlens: bytes, heads: int, tile: int) -> Sequence[Group]:
    edges = np.frombuffer(cu_seqlens, dtype=np.int32).tolist()
    return group([(start, end) for start, end in itertools.pairwise(edges) if end > start], heads, tile)


def group(bounds: Bounds, heads: int, tile: int) -> list[Group]:
    """Groups the proteins of a batch, the longest first.

    Args:
        bounds: Bounds of the proteins, each of at least one token.
        heads: Number of attention heads.
        tile: Maximum number of scores in a group of several proteins.
    """
    groups = []
    for members, length in _plan(heads, [end - start for start, end in bounds], tile):
        if len(members) == 1:
            groups.append(Group(slice(*bounds[members[0]]), 1, length))
            continue
        starts = torch.tensor([bounds[member][0] for member in members])[:, None]
        ends = torch.tensor([bounds[member][1] for member in members])[:, None]
        rows = starts + torch.arange(length)
        padding = rows >= ends
        if not bool(padding.any()):
            groups.append(Group(rows.flatten(), len(members), length))
            continue
        tokens = (~padding).flatten().nonzero().squeeze(-1)
        groups.append(Group(rows.where(~padding, starts).flatten(), len(members), length, tokens, padding))
    return groups


def _plan(heads: int, lengths: Sequence[int], tile: int) -> list[tuple[list[int], int]]:
    """Chooses groups: indices of the proteins, and the length to which they are padded.

    All scores of a group of several proteins fit into one tile.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    plan, first = [], 0
    while first < len(order):
        longest = lengths[order[first]]
        length = math.ceil(longest / LENGTH_STEP) * LENGTH_STEP
        shortest = length - max(LENGTH_STEP, int(length * _MOST_PADDING))
        most = tile // (heads * length * length)
        last = first + 1
        while last < len(order) and last - first < most and lengths[order[last]] > shortest:
            last += 1
        size = 1 << ((last - first).bit_length() - 1)
        plan.append((order[first : first + size], length if size > 1 else longest))
        first += size
    return plan
