"""Groups of proteins that attend together: every token is in one of them, once."""

from __future__ import annotations

import itertools

import torch

from plm_composer.model import protein_groups
from plm_composer.model.protein_groups import group, groups_of, groups_of_lengths

LENGTHS = (5, 90, 17, 1, 64, 2, 130, 33, 33, 3, 9, 8, 12, 7, 1, 15, 10, 8, 8, 40, 37, 9, 11, 2, 1000, 999, 8, 8)


def test_groups_hold_every_token_once() -> None:
    edges = [0, *itertools.accumulate(LENGTHS)]
    rows: list[int] = []
    for each in group(list(itertools.pairwise(edges)), 20, protein_groups.TILE):
        if isinstance(each.rows, slice):
            rows += range(each.rows.start, each.rows.stop)
        else:
            rows += (each.rows if each.tokens is None else each.rows[each.tokens]).tolist()
            assert each.proteins & (each.proteins - 1) == 0
            assert each.length % protein_groups.LENGTH_STEP == 0
            assert 20 * each.proteins * each.length**2 <= protein_groups.TILE
    assert sorted(rows) == list(range(sum(LENGTHS)))


def test_bounds_and_lengths_give_the_same_groups_and_empty_proteins_none() -> None:
    lengths = (4, 0, 7, 7, 0)
    by_bounds = groups_of(torch.tensor([0, *lengths]).cumsum(0).int(), 3)
    by_lengths = groups_of_lengths(lengths, 3)
    assert [(each.proteins, each.length) for each in by_bounds] == [(each.proteins, each.length) for each in by_lengths]
    assert sum(each.proteins for each in by_bounds) == 3
