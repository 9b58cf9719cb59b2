"""Windows of long proteins: where they start, and whose residues count."""

from __future__ import annotations

import itertools

import pytest

from plm_composer.inference.embedding.windows import Window, windows_of


def test_a_case_by_hand() -> None:
    # Windows of 8 that share 2 or more: 20 residues take three, and start at 0, 6 and 12. The middles of neighbours
    # are at 3.5, 9.5 and 15.5, so that they meet after residues 6 and 12.
    assert windows_of(20, 8) == [Window(0, 8, 0, 7), Window(6, 14, 7, 13), Window(12, 20, 13, 20)]


@pytest.mark.parametrize("size", [0, 5, 6])
def test_a_protein_that_fits_is_whole(size: int) -> None:
    assert windows_of(5, size) == [Window(0, 5, 0, 5)]


@pytest.mark.parametrize("size", [4, 5, 30, 1022])
def test_each_residue_is_taken_where_it_is_furthest_from_an_edge(size: int) -> None:
    for length in (*range(1, 3 * size), 10 * size + 3):
        windows = windows_of(length, size)
        kept = [residue for each in windows for residue in range(each.kept_start, each.kept_stop)]
        assert kept == list(range(length))
        if len(windows) == 1:
            continue
        assert (windows[0].start, windows[-1].stop) == (0, length)
        for this, following in itertools.pairwise(windows):
            assert this.stop - this.start == size
            assert this.stop - following.start >= size // 4
        if size > 30:
            continue
        for each in windows:
            for residue in range(each.kept_start, each.kept_stop):
                distances = [min(residue - w.start, w.stop - 1 - residue) for w in windows]
                assert min(residue - each.start, each.stop - 1 - residue) == max(distances)
