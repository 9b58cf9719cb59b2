"""Proteins that a causal model draws."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from plm_composer.errors import UserError
from plm_composer.evaluation.likelihood import log_likelihoods
from plm_composer.evaluation.windows import make_windowing
from plm_composer.inference.sampling import Sampling, sample_proteins
from plm_composer.model.esm2 import ESM2
from tests.model.small_models import SMALL, randomise

RESIDUES = set("LAGVSERTIDPKQNFYMHWC")


@pytest.fixture(scope="module", params=["causal", "mixed"])
def model(request: pytest.FixtureRequest) -> ESM2:
    changes = {
        "causal": {"causal": True, "token_dropout": False, "short_convolution": 3},
        "mixed": {"mixed": True, "value_residual": True, "embedding_residual": True},
    }
    made = ESM2(dataclasses.replace(SMALL, **changes[request.param]))
    randomise(made)
    return made.eval()


def test_the_same_seed_draws_the_same_proteins(model: ESM2) -> None:
    sampling = Sampling(max_residues=40, batch_size=3)
    first, again = (list(sample_proteins(model, 5, sampling)) for _ in range(2))
    assert first == again
    assert len({each.residues for each in first}) > 1
    assert all(set(each.residues) <= RESIDUES and 1 <= len(each.residues) <= 40 for each in first)
    other = list(sample_proteins(model, 5, dataclasses.replace(sampling, seed=1)))
    assert [each.residues for each in other] != [each.residues for each in first]


def test_their_likelihood_is_that_of_scoring(model: ESM2) -> None:
    prompt = "MKV"
    for each in sample_proteins(model, 4, Sampling(prompt=prompt, max_residues=30)):
        assert each.residues.startswith(prompt)
        (parts,) = log_likelihoods(model, [each.residues], make_windowing("preceding"))
        drawn = parts[len(prompt) :] if each.ended else parts[len(prompt) : -1]
        assert each.log_likelihood == pytest.approx(drawn.sum(), abs=1e-3)


def test_a_small_top_p_and_no_temperature_take_the_likeliest(model: ESM2) -> None:
    greedy = list(sample_proteins(model, 2, Sampling(prompt="M", temperature=0, max_residues=20)))
    assert greedy[0] == greedy[1]
    nucleus = list(sample_proteins(model, 2, Sampling(prompt="M", top_p=1e-6, max_residues=20)))
    assert [each.residues for each in nucleus] == [each.residues for each in greedy]


def test_draws_follow_the_probabilities(model: ESM2) -> None:
    with torch.inference_mode():
        logits = model(torch.tensor([[0, 20]]), causal=True)[0, -1]
    allowed = [*range(4, 24), 2]
    expected = logits[allowed].softmax(-1)
    drawn = [
        each.residues[1:2] for each in sample_proteins(model, 4000, Sampling("M", max_residues=2, batch_size=4000))
    ]
    letters = [*"LAGVSERTIDPKQNFYMHWC", ""]
    found = torch.tensor([drawn.count(letter) / len(drawn) for letter in letters])
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


def test_no_protein_is_empty(model: ESM2) -> None:
    assert all(each.residues for each in sample_proteins(model, 2000, Sampling(max_residues=2, batch_size=2000)))


@pytest.mark.parametrize("temperature", [1e-39, 1e-320])
def test_the_smallest_temperatures_take_the_likeliest(model: ESM2, temperature: float) -> None:
    greedy, cold = (
        [each.residues for each in sample_proteins(model, 2, Sampling("M", temperature=each, max_residues=10))]
        for each in (0, temperature)
    )
    assert cold == greedy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -1.0}, "the temperature is -1"),
        ({"temperature": float("inf")}, "it must be at least 0, and finite"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"prompt": "MX"}, "the prompt holds 'X'"),
        ({"prompt": "MKV", "max_residues": 3}, "leave none to draw"),
        ({"batch_size": 0}, "the batch size is 0"),
    ],
)
def test_what_cannot_be_drawn(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sampling(**arguments)  # type: ignore[arg-type]


def test_a_masked_model_draws_nothing() -> None:
    with pytest.raises(UserError, match="objective=causal"):
        next(sample_proteins(ESM2(SMALL), 1))
    with pytest.raises(UserError, match="objective=causal"):
        log_likelihoods(ESM2(SMALL), ["MKV"], make_windowing("preceding"))
