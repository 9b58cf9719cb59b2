"""Likelihoods of a causal model, against one forward pass a token."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from plm_composer.errors import UserError
from plm_composer.evaluation.evaluate import evaluate
from plm_composer.evaluation.likelihood import log_likelihoods
from plm_composer.evaluation.pseudo_perplexity import compute_perplexities
from plm_composer.evaluation.variants.methods import Scorer, score_variants
from plm_composer.evaluation.variants.mutations import Variant, parse_mutant, place_mutant
from plm_composer.evaluation.windows import make_windowing
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import tokenize
from tests.model.small_models import SMALL, randomise

TARGET = "MKTAYIAKQRQISFVKSHFSRQ"


@pytest.fixture(scope="module", params=["causal", "mixed"])
def model(request: pytest.FixtureRequest) -> ESM2:
    made = ESM2(dataclasses.replace(SMALL, token_dropout=False, qk_norm=True, **{request.param: True}))
    randomise(made)
    return made.eval()


@torch.inference_mode()
def one_by_one(model: ESM2, protein: str) -> np.ndarray:
    """Log-probability of each residue and of the end, each from a pass over what precedes it alone."""
    tokens = torch.from_numpy(tokenize(protein))
    return np.array([
        float(model(tokens[None, :position], causal=True)[0, -1].double().log_softmax(-1)[tokens[position]])
        for position in range(1, len(tokens))
    ])  # fmt: skip


def test_they_are_those_of_a_pass_per_token(model: ESM2) -> None:
    proteins = [TARGET, "MK"]
    for protein, found in zip(proteins, log_likelihoods(model, proteins, make_windowing("preceding")), strict=True):
        np.testing.assert_allclose(found, one_by_one(model, protein), rtol=0, atol=1e-5)


def test_every_residue_of_a_long_protein_has_half_a_window_before_it(model: ESM2) -> None:
    long = TARGET * 4
    choose = make_windowing("preceding", 16)
    for position in range(len(long) + 2):
        (window,) = choose(position, len(long) + 2)
        assert window.start <= position < window.end <= len(long) + 2
        assert window.end - window.start <= 16
        assert window.start == 0 or position - window.start >= 7
    (found,) = log_likelihoods(model, [long], choose)
    (whole,) = log_likelihoods(model, [long], make_windowing("none"))
    np.testing.assert_allclose(found[:14], whole[:14], rtol=0, atol=1e-5)
    assert np.abs(found - whole).max() > 1e-3


def test_mutants_are_compared_with_their_target(model: ESM2) -> None:
    chosen = [place_mutant(TARGET, parse_mutant(text, "here"), 1, "here") for text in ("K2W", "wt", "I6V:A7G")]
    chosen.append(Variant(TARGET[:5] + "GG" + TARGET[5:], None))
    found = score_variants(Scorer(model), "likelihood", TARGET, chosen)
    own = one_by_one(model, TARGET).sum()
    wanted = [one_by_one(model, variant.sequence).sum() - own for variant in chosen]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    assert found[1] == 0


def test_each_kind_of_model_has_its_methods(model: ESM2) -> None:
    if model.config.mixed:
        pytest.skip("a mixed model has all")
    mutant = [place_mutant(TARGET, parse_mutant("K2W", "here"), 1, "here")]
    with pytest.raises(UserError, match="the model is causal and fills no masks; use likelihood"):
        score_variants(Scorer(model), "masked-marginals", TARGET, mutant)
    with pytest.raises(UserError, match="the model has not learnt to predict the next residue; use pll"):
        score_variants(Scorer(ESM2(SMALL)), "likelihood", TARGET, mutant)


def test_a_causal_model_has_no_pseudo_perplexity(model: ESM2) -> None:
    if model.config.mixed:
        assert compute_perplexities(model, [TARGET])
        return
    with pytest.raises(UserError, match="the model is causal and has no pseudo-perplexity; plm evaluate"):
        compute_perplexities(model, [TARGET])


def test_the_pinned_loss_is_the_mean_over_residues_without_the_end(model: ESM2) -> None:
    proteins = [TARGET, "MKVXLA", "MK"]
    parts = [one_by_one(model, protein)[:-1] for protein in proteins]
    kept = np.concatenate([[value for value, residue in zip(part, protein, strict=True) if residue != "X"]
                           for part, protein in zip(parts, proteins, strict=True)])  # fmt: skip
    result = evaluate(model.as_causal(), proteins)
    assert result.loss == pytest.approx(-kept.mean(), abs=1e-5)
    assert result.scored_tokens == len(kept)
