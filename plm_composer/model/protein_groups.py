"""Which proteins of a packed batch attend together on a CPU, and how they are taken out of it and put back.

Below about a hundred residues the calls cost more than the arithmetic. Such proteins attend together, one matrix each
for every head, filled up to one length.
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
"""First token and end of each protein."""

TILE = 1 << 20
"""Scores worked on at once: enough to keep all cores busy, few enough to stay in a shared cache."""
LENGTH_STEP = 8
"""Lengths of groups are multiples of it, and their sizes powers of two: every shape is a kernel to be made once."""
_MOST_PADDING = 1 / 8
"""Largest share of a group's length by which a protein in it is filled up, beside one step."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Proteins that attend together.

    Args:
        rows: Their tokens, a slice for one protein; else (proteins * length,), padding pointing to a first token.
        proteins: How many.
        length: What each is filled up to.
        tokens: Where there is padding: which of ``rows`` are no padding, (their tokens,).
        padding: Where there is padding: True on it, (proteins, length).
    """

    rows: slice | Tensor
    proteins: int
    length: int
    tokens: Tensor | None = None
    padding: Tensor | None = None

    def take(self, x: Tensor) -> Tensor:
        """(tokens, heads, size) to one contiguous matrix (length, size) a protein and head."""
        return self.split(x).transpose(1, 2).contiguous().flatten(0, 1)

    def take_transposed(self, x: Tensor) -> Tensor:
        """(tokens, heads, size) to one contiguous matrix (size, length) a protein and head."""
        return self.split(x).permute(0, 2, 3, 1).contiguous().flatten(0, 1)

    def put(self, result: Tensor, matrices: Tensor) -> None:
        """Writes matrices (length, size) to their tokens of ``result``, (tokens, heads, size)."""
        heads = result.shape[1]
        self._put(result, matrices.view(self.proteins, heads, *matrices.shape[1:]).transpose(1, 2))

    def put_transposed(self, result: Tensor, matrices: Tensor) -> None:
        """Writes matrices (size, length) to their tokens of ``result``, (tokens, heads, size)."""
        heads = result.shape[1]
        self._put(result, matrices.view(self.proteins, heads, *matrices.shape[1:]).permute(0, 3, 1, 2))

    def clear_padding(self, matrices: Tensor, dimension: int) -> Tensor:
        """Sets what stands at padding along a dimension of the matrices to zero, in place."""
        if self.padding is not None:
            shape = (self.proteins, 1, self.length, 1) if dimension == 1 else (self.proteins, 1, 1, self.length)
            matrices.view(self.proteins, -1, *matrices.shape[1:]).masked_fill_(self.padding.view(shape), 0.0)
        return matrices

    def split(self, x: Tensor) -> Tensor:
        """(tokens, heads, size) to (proteins, length, heads, size)."""
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
    """Groups proteins of these lengths.

    Args:
        lengths: Tokens of each protein.
        heads: Attention heads.
    """
    ends = itertools.accumulate(lengths)
    return group([(end - length, end) for length, end in zip(lengths, ends, strict=True) if length], heads, TILE)


def groups_of(cu_seqlens: Tensor, heads: int) -> Sequence[Group]:
    """Groups the proteins of a batch, once for all of its layers.

    Args:
        cu_seqlens: Where each protein begins, and where the last one ends, shape (proteins + 1,), int32, on the CPU.
        heads: Attention heads.
    """
    return _groups(cu_seqlens.numpy().tobytes(), heads, TILE)


@functools.lru_cache(maxsize=16)
def _groups(cu_seqlens: bytes, heads: int, tile: int) -> Sequence[Group]:
    edges = np.frombuffer(cu_seqlens, dtype=np.int32).tolist()
    return group([(start, end) for start, end in itertools.pairwise(edges) if end > start], heads, tile)


def group(bounds: Bounds, heads: int, tile: int) -> list[Group]:
    """Groups the proteins of a batch, the longest first.

    Args:
        bounds: Of proteins of at least one token.
        heads: Attention heads.
        tile: Most scores of a group of several proteins.
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
    """Which proteins attend together, and the length to which they are filled up.

    All scores of a group of several fit into one tile.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    plan, first = [], 0
    while first < len(order):
        longest = lengths[order[first]]
        length = math.ceil(longest / LENGTH_STEP) * LENGTH_STEP
        shortest = length - max(LENGTH_STEP, int(length * _MOST_PADDING))
        room = tile // (heads * length * length)
        last = first + 1
        while last < len(order) and last - first < room and lengths[order[last]] > shortest:
            last += 1
        size = 1 << ((last - first).bit_length() - 1)
        plan.append((order[first : first + size], length if size > 1 else longest))
        first += size
    return plan
