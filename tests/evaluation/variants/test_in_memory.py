"""``score`` and ``scan`` from Python: those of a plain loop over transformers, and one line for what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plm_composer import scan, score
from plm_composer.errors import UserError
from plm_composer.evaluation.variants.scan import RESIDUES
from tests.evaluation.plain_loop import PlainLoop, ratio, small_model

PROTEIN = "MKTAYIAKQRQISFVKSHFSRQ"


def test_scores_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    loop = PlainLoop(small_model(), tmp_path)
    first = ratio(loop.masked(PROTEIN, 1, 1024), "K", "W")
    second = ratio(loop.masked(PROTEIN, 6, 1024), "A", "G")
    found = score(small_model(), PROTEIN, ["K2W", "K2W:A7G", "wt"])
    np.testing.assert_allclose(found, [first, first + second, 0], rtol=0, atol=1e-5)


def test_a_scan_holds_the_score_of_every_substitution() -> None:
    model = small_model()
    matrix = scan(model, PROTEIN.encode(), batch_tokens=100)
    assert matrix.shape == (len(PROTEIN), len(RESIDUES))
    singles = [f"{old}{index + 1}{new}" for index, old in enumerate(PROTEIN) for new in RESIDUES]
    np.testing.assert_allclose(matrix.ravel(), score(model, PROTEIN, singles), rtol=0, atol=1e-5)
    assert all(matrix[index, RESIDUES.index(residue)] == 0 for index, residue in enumerate(PROTEIN))


def test_positions_count_from_the_offset() -> None:
    assert score(small_model(), PROTEIN, ["K31W"], offset=30) == score(small_model(), PROTEIN, ["K2W"])


def test_no_mutants_have_no_scores() -> None:
    assert score(small_model(), PROTEIN, []).shape == (0,)


@pytest.mark.parametrize(
    ("protein", "mutants", "method", "message"),
    [
        (PROTEIN, ["K2W", "A2W"], "pll", "mutant 2: A2W, but residue 2 of the target is K"),
        (PROTEIN, ["K99W"], "pll", "mutant 1: position 99 lies outside the target"),
        (PROTEIN, ["K2"], "pll", "mutant 1: 'K2' is no substitution such as A30Q"),
        (PROTEIN, ["K2W"], "marginals", "the method is 'marginals'; choose from masked-marginals"),
        ("", ["K2W"], "pll", "the protein to mutate has no residues"),
    ],
)
def test_what_does_not_fit_is_one_line(protein: str, mutants: list[str], method: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        score(small_model(), protein, mutants, method=method)
    assert "\n" not in str(caught.value)


def test_a_scan_needs_residues_and_a_method() -> None:
    with pytest.raises(UserError, match="has no residues"):
        scan(small_model(), "")
    with pytest.raises(UserError, match="choose from masked-marginals"):
        scan(small_model(), PROTEIN, method="marginals")
