"""Maps and contacts from attention against fair-esm's, and a regression that finds the head with the contacts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from esm.model.esm2 import ESM2 as FairESM2
from esm.modules import apc, symmetrize

from plm_composer.errors import UserError
from plm_composer.evaluation.contacts.attention import (
    _PAIRS_OF_A_BATCH,
    Regression,
    fit_logistic,
    fit_regression,
    load_regression,
    predict_by_attention,
    put_regression,
    regression_of,
    save_regression,
)
from plm_composer.evaluation.contacts.precision import precisions
from plm_composer.evaluation.contacts.structures import Structure
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place, tokenize
from plm_composer.model.weights.fair_esm import from_fair_esm
from tests.model.small_models import SMALL, make_model, randomise

PROTEINS = ["MKV", "MKTAYIAKQRQISFVKSHFSRQ", "GSHMACDEFGHIKLMNPQRSTVWYXBZU", "ACDEFGHIKL"]
LAYERS, HEADS = SMALL.num_hidden_layers, SMALL.num_attention_heads


def _random_protein(length: int, seed: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACDEFGHIKLMNPQRSTVWY"), length))


def test_maps_and_contacts_are_those_of_fair_esm() -> None:
    theirs = FairESM2(LAYERS, SMALL.hidden_size, HEADS)
    randomise(theirs)
    theirs.eval()
    ours = ESM2(SMALL).eval()
    ours.load_state_dict(from_fair_esm(theirs.state_dict(), SMALL))
    regression = regression_of(ours)
    assert regression is not None
    found = dict(predict_by_attention(ours, PROTEINS, regression))
    assert sorted(found) == list(range(len(PROTEINS)))
    for index, protein in enumerate(PROTEINS):
        tokens = torch.from_numpy(tokenize(protein))[None]
        with torch.no_grad():
            expected = theirs.predict_contacts(tokens)[0].numpy()
            attention = theirs(tokens, need_head_weights=True)["attentions"][0, :, :, 1:-1, 1:-1]
            maps = torch.stack([each.corrected()[0] for each in ours.contact_maps(tokens)])
        np.testing.assert_allclose(found[index], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(maps[..., :-1, :-1] if maps.shape[-1] > len(protein) else maps,
                                   apc(symmetrize(attention)), rtol=0, atol=1e-6)  # fmt: skip


def test_an_untrained_head_is_no_regression() -> None:
    assert regression_of(ESM2(SMALL)) is None
    assert regression_of(ESM2(dataclasses.replace(SMALL, contact_head=False))) is None


def test_logistic_regression_finds_a_planted_signal() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 30)).astype(np.float32)
    planted = np.zeros(30)
    planted[[3, 17]] = 2.0, -1.5
    contacts = rng.random(4000) < 1 / (1 + np.exp(1 - features @ planted))
    weights, intercept = fit_logistic(features, contacts.astype(np.int8))
    np.testing.assert_allclose(weights, planted, atol=0.15)
    assert intercept == pytest.approx(-1, abs=0.15)
    assert (weights == 0).sum() > 5  # an L1 penalty


def _sharp_model() -> ESM2:
    """A model whose heads attend to few residues each, as trained ones do."""
    model = make_model()
    with torch.no_grad():
        for block in model.blocks:
            block.attention.qkv.weight[: 2 * SMALL.hidden_size] *= 4
    return model


def _planted(model: ESM2, lengths: tuple[int, ...], layer: int, head: int) -> list[Structure]:
    """Proteins whose contacts are what one head attends to."""
    found = []
    for seed, length in enumerate(lengths):
        sequence = _random_protein(length, seed + 10 * length)
        with torch.no_grad():
            maps = list(model.contact_maps(torch.from_numpy(tokenize(sequence))[None]))[layer].corrected()[0, head]
        maps = maps[:length, :length].numpy()
        contacts = (maps > np.quantile(maps, 0.95)).astype(np.int8)
        contacts[3], contacts[:, 3] = -1, -1  # a residue that is not resolved
        found.append(Structure(f"p{seed}", sequence, contacts))
    return found


@pytest.mark.parametrize(("layer", "head"), [(1, 2), (2, 0)])
def test_the_regression_finds_the_head_that_attends_to_contacts(layer: int, head: int) -> None:
    model = _sharp_model()
    regression = fit_regression(model, _planted(model, (60, 45, 70, 52), layer, head))
    assert regression.weights.shape == (LAYERS, HEADS)
    assert np.unravel_index(regression.weights.argmax(), (LAYERS, HEADS)) == (layer, head)
    assert regression.trained_on == ("p0", "p1", "p2", "p3")
    (unseen,) = _planted(model, (66,), layer, head)
    ((_, scores),) = predict_by_attention(model, [unseen.sequence], regression)
    assert precisions(scores, unseen.contacts)["long_precision_at_L5"] > 0.9


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _sharp_model()
    structures = _planted(model, (60, 45, 70), 1, 2)
    together = fit_regression(model, structures)
    monkeypatch.setitem(_PAIRS_OF_A_BATCH, "cpu", 1)
    alone = fit_regression(model, structures, Place())
    np.testing.assert_allclose(alone.weights, together.weights, atol=1e-3)


def test_a_fitted_regression_becomes_the_models_own_head(tmp_path: Path) -> None:
    model = ESM2(SMALL).eval()
    weights = np.random.default_rng(0).normal(size=(LAYERS, HEADS)).astype(np.float32)
    regression = Regression(weights, -0.5, ("1A8O_A",))
    save_regression(tmp_path / "contacts.json", regression)
    read = load_regression(tmp_path / "contacts.json")
    np.testing.assert_array_equal(read.weights, weights)
    assert (read.intercept, read.trained_on) == (-0.5, ("1A8O_A",))
    put_regression(model, read)
    ((_, expected),) = predict_by_attention(model, [PROTEINS[1]], regression)
    with torch.no_grad():
        contacts = model.predict_contacts(torch.from_numpy(tokenize(PROTEINS[1]))[None])[0]
    np.testing.assert_allclose(contacts.numpy(), expected, atol=1e-6)


def test_what_cannot_be_fitted_or_used_is_told(tmp_path: Path) -> None:
    model = make_model()
    none = Structure("a", "MKV" * 10, np.zeros((30, 30), np.int8))
    with pytest.raises(UserError, match=r"1 training structures have 0 pairs in contact of 300"):
        fit_regression(model, [none])
    with pytest.raises(UserError, match="no training structures"):
        fit_regression(model, [])
    other = Regression(np.ones((2, 4), np.float32), 0.0)
    with pytest.raises(UserError, match=r"fitted on a model of 2 x 4 \(layers x heads\), and this one has 3 x 4"):
        next(predict_by_attention(model, ["MKV"], other))
    with pytest.raises(UserError, match="no contact head"):
        put_regression(ESM2(dataclasses.replace(SMALL, contact_head=False)), other)
    for name, text in {"empty": "", "list": "[]", "text": '{"weights": [["a"]]}', "flat": '{"weights": [1]}'}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=f"{name}: not a regression"):
            load_regression(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        load_regression(tmp_path / "none")
    with pytest.raises(UserError, match="cannot write"):
        save_regression(tmp_path / "none" / "x.json", other)
