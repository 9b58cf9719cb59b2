"""Pseudo-perplexity is that of a plain loop over transformers, and the estimates are what they say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from plm_composer.errors import UserError
from plm_composer.evaluation import masked_predictions
from plm_composer.evaluation.pseudo_perplexity import compute_perplexities, pool_perplexities
from plm_composer.tokenizer import VOCABULARY
from tests.evaluation.plain_loop import PlainLoop, small_model

PROTEINS = ("MKTAYIAKQRQ", "GG", "ACDEFGHIKLMNPQRSTVWYX")


def test_perplexities_are_those_of_a_plain_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = PlainLoop(small_model(), tmp_path)
    monkeypatch.setattr(masked_predictions, "_REQUESTS_AT_ONCE", 15)
    found = compute_perplexities(small_model(), PROTEINS)
    for protein, each in zip(PROTEINS, found, strict=True):
        assert each.residues == len(protein)
        assert each.pseudo == pytest.approx(math.exp(-loop.pll(protein) / len(protein)), rel=1e-5)
        seen = [loop.seen(protein, index)[VOCABULARY.index(residue)] for index, residue in enumerate(protein)]
        assert each.unmasked == pytest.approx(math.exp(-np.mean(seen)), rel=1e-5)
        corrected = [max(2 * math.exp(value) - 1, 1e-3) for value in seen]
        assert each.one_fell_swoop == pytest.approx(math.exp(-np.mean(np.log(corrected))), rel=1e-5)
    pooled = pool_perplexities(found)
    total = sum(loop.pll(protein) for protein in PROTEINS)
    assert pooled.residues == sum(map(len, PROTEINS))
    assert pooled.pseudo == pytest.approx(math.exp(-total / pooled.residues), rel=1e-5)


def test_the_estimates_alone_leave_the_exact_one_out() -> None:
    found = compute_perplexities(small_model(), PROTEINS, exact=False)
    assert pool_perplexities(found).pseudo is None
    assert found[0].unmasked == pytest.approx(compute_perplexities(small_model(), PROTEINS[:1])[0].unmasked)


def test_a_protein_without_residues_is_refused() -> None:
    with pytest.raises(UserError, match="a protein without residues has no perplexity"):
        compute_perplexities(small_model(), ["MKV", ""])
