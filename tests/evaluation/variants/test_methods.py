"""The four scores are those of a plain loop over transformers, for singles, multiples, windows and indels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from plm_composer.errors import UserError
from plm_composer.evaluation.variants.methods import METHODS, Scorer, score_variants
from plm_composer.evaluation.variants.mutations import Variant, parse_mutant, place_mutant
from plm_composer.evaluation.variants.scan import RESIDUES, scan_protein
from plm_composer.evaluation.windows import make_windowing
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place
from plm_composer.tokenizer import MASK_ID, VOCABULARY
from tests.evaluation.plain_loop import PlainLoop, ratio, small_model, tokens_of

TARGET = "MKTAYIAKQRQISFVKSHFSRQ"
MASKED = [method for method in METHODS if method != "likelihood"]
MUTANTS = ("M1A", "K2W:R10A:Q22L", "Q22D", "K2W", "wt", "I6V:A7G", "M1A", "T3C")


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> PlainLoop:
    loop = PlainLoop(small_model(), tmp_path_factory.mktemp("plain"))
    loop.model.double()
    return loop


def exact_model() -> ESM2:
    """In fp64, so that sums over a protein tell a wrong term from a rounded one."""
    return small_model().double()


def variants(target: str = TARGET, mutants: tuple[str, ...] = MUTANTS) -> list[Variant]:
    return [place_mutant(target, parse_mutant(text, "here"), 1, "here") for text in mutants]


def expected(loop: PlainLoop, method: str, target: str, variant: Variant, context: int = 1024) -> float:
    sequence = variant.sequence
    if method == "pll":
        return loop.pll(sequence, context) - loop.pll(target, context)
    look = {
        "masked-marginals": lambda index: loop.masked(target, index, context),
        "wt-marginals": lambda index: loop.seen(target, index, context),
        "mutant-marginals": lambda index: loop.seen(sequence, index, context),
    }[method]
    return sum(ratio(look(each.index), each.wildtype, each.mutant) for each in variant.substitutions or ())


@pytest.mark.parametrize("method", MASKED)
def test_scores_are_those_of_a_plain_loop(loop: PlainLoop, method: str) -> None:
    found = score_variants(Scorer(exact_model(), Place(batch_tokens=100)), method, TARGET, variants())
    wanted = [expected(loop, method, TARGET, variant) for variant in variants()]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-7)
    assert found[4] == 0
    assert np.abs(found[:4]).min() > 1e-3  # the model tells the mutants apart


@pytest.mark.parametrize("method", MASKED)
def test_long_proteins_are_scored_in_proteingyms_windows(loop: PlainLoop, method: str) -> None:
    long = "".join(itertools.islice(itertools.cycle(TARGET), 45))
    chosen = variants(long, ("M1A", "Q22D", "M45L", "K2W:F36A"))
    scorer = Scorer(exact_model(), windowing=make_windowing("optimal", 16))
    found = score_variants(scorer, method, long, chosen)
    np.testing.assert_allclose(
        found, [expected(loop, method, long, variant, 16) for variant in chosen], rtol=0, atol=1e-7
    )


def test_masks_can_be_placed_together(loop: PlainLoop) -> None:
    scorer = Scorer(exact_model(), mask_together=True)
    double = variants(TARGET, ("K2W:R10A",))
    tokens = tokens_of(TARGET)
    tokens[2] = tokens[10] = MASK_ID
    both = ratio(loop.log_probabilities(tokens, 2), "K", "W") + ratio(loop.log_probabilities(tokens, 10), "R", "A")
    found = score_variants(scorer, "masked-marginals", TARGET, double)
    np.testing.assert_allclose(found, [both], rtol=0, atol=1e-7)
    alone = score_variants(Scorer(exact_model()), "masked-marginals", TARGET, double)
    assert abs(found[0] - alone[0]) > 1e-4


def test_insertions_and_deletions_are_scored_by_pseudo_log_likelihood(loop: PlainLoop) -> None:
    shorter, longer = Variant(TARGET[:10] + TARGET[12:], None), Variant(TARGET + "GG", None)
    found = score_variants(Scorer(exact_model()), "pll", TARGET, [shorter, longer])
    wanted = [loop.pll(each.sequence) - loop.pll(TARGET) for each in (shorter, longer)]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-7)
    without_target = score_variants(Scorer(exact_model()), "pll", None, [shorter])
    np.testing.assert_allclose(without_target, [loop.pll(shorter.sequence)], rtol=0, atol=1e-7)
    with pytest.raises(UserError, match="cannot score insertions and deletions; use the method pll"):
        score_variants(Scorer(exact_model()), "wt-marginals", TARGET, [shorter])


def test_a_scan_holds_every_single_mutant() -> None:
    scorer = Scorer(exact_model())
    matrix = scan_protein(scorer, "masked-marginals", TARGET)
    assert matrix.shape == (len(TARGET), 20)
    single = score_variants(scorer, "masked-marginals", TARGET, variants(TARGET, ("R10A",)))
    assert matrix[9, RESIDUES.index("A")] == pytest.approx(single[0], abs=1e-5)
    assert all(matrix[index, RESIDUES.index(residue)] == 0 for index, residue in enumerate(TARGET))


def test_a_position_is_predicted_once_for_all_its_mutants(monkeypatch: pytest.MonkeyPatch) -> None:
    model = exact_model()
    tokens = 0
    forward = model.forward

    def count(input_ids: torch.Tensor, **arguments: object) -> torch.Tensor:
        nonlocal tokens
        tokens += len(input_ids)
        return forward(input_ids, **arguments)

    monkeypatch.setattr(model, "forward", count)
    scan_protein(Scorer(model), "masked-marginals", TARGET)
    # A batch is filled up to a multiple of 128 tokens.
    assert tokens == -(-len(TARGET) * (len(TARGET) + 2) // 128) * 128
    tokens = 0
    scan_protein(Scorer(model), "wt-marginals", TARGET)
    assert tokens == 128


def test_there_are_only_four_methods() -> None:
    with pytest.raises(UserError, match="choose from masked-marginals, wt-marginals, mutant-marginals, pll"):
        score_variants(Scorer(exact_model()), "esm", TARGET, variants())
    assert VOCABULARY[MASK_ID] == "<mask>"
