"""Embeddings are those of transformers and fair-esm, in the order given, whatever is asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from esm.model.esm2 import ESM2 as FairESM2
from transformers import AutoTokenizer, EsmModel

from plm_composer import embed
from plm_composer.errors import UserError
from plm_composer.inference.load import load_trained
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import tokenize
from plm_composer.model.weights.fair_esm import from_fair_esm
from plm_composer.model.weights.huggingface_folder import save_huggingface
from tests.model.small_models import SMALL, make_model, randomise

PROTEINS = [b"MKVLLA", b"M", b"ACDEFGHIKLMNPQRSTVWYXBZ", b"GGG"]
LAST = SMALL.num_hidden_layers


@pytest.fixture(scope="module")
def model() -> ESM2:
    return make_model()


def expected_states(model: ESM2, protein: bytes) -> np.ndarray:
    """All layers of one protein on its own, padded code, (tokens, layers, width)."""
    states = model.layer_states(torch.from_numpy(tokenize(protein))[None], range(LAST + 1))
    return torch.stack([state[0] for state in states], dim=1).detach().numpy()


def test_all_layers_are_those_of_transformers(tmp_path: Path, model: ESM2) -> None:
    save_huggingface(model, tmp_path)
    reference, tokenizer = EsmModel.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    layers = tuple(range(LAST + 1))
    loaded = load_trained(tmp_path).model
    residues = embed(loaded, PROTEINS, per_residue=True, layers=layers, batch_tokens=12)
    means = embed(loaded, PROTEINS, layers=layers, batch_tokens=12)
    starts = embed(loaded, PROTEINS, cls=True, layers=layers)
    for index, protein in enumerate(PROTEINS):
        with torch.no_grad():
            output = reference(**tokenizer(protein.decode(), return_tensors="pt"), output_hidden_states=True)
        states = torch.stack(output.hidden_states)[:, 0].numpy()
        np.testing.assert_allclose(residues[index], states[:, 1:-1].swapaxes(0, 1), atol=2e-5)
        np.testing.assert_allclose(means[index], states[:, 1:-1].mean(1), atol=2e-5)
        np.testing.assert_allclose(starts[index], states[:, 0], atol=2e-5)
        np.testing.assert_allclose(embed(loaded, [protein])[0], output.last_hidden_state[0, 1:-1].mean(0), atol=2e-5)


def test_all_layers_are_those_of_fair_esm() -> None:
    theirs = FairESM2(SMALL.num_hidden_layers, SMALL.hidden_size, SMALL.num_attention_heads).eval()
    randomise(theirs)
    ours = ESM2(SMALL)
    ours.load_state_dict(from_fair_esm(theirs.state_dict(), SMALL))
    embeddings = embed(ours, PROTEINS, per_residue=True, layers=range(LAST + 1))
    for protein, each in zip(PROTEINS, embeddings, strict=True):
        with torch.no_grad():
            found = theirs(torch.from_numpy(tokenize(protein))[None], repr_layers=range(LAST + 1))["representations"]
        expected = torch.stack([found[layer][0, 1:-1] for layer in range(LAST + 1)], dim=1).numpy()
        np.testing.assert_allclose(each, expected, atol=2e-5)


def test_chosen_layers_come_in_the_order_asked_for(model: ESM2) -> None:
    several = embed(model, PROTEINS, layers=(-1, 1))
    assert several.layers == (3, 1)
    np.testing.assert_array_equal(several.values[:, 0], embed(model, PROTEINS).values)
    np.testing.assert_array_equal(several.values[:, 1], embed(model, PROTEINS, layers=[1]).values)
    assert embed(model, PROTEINS, layers=[1]).values.shape == (4, 32)


def test_long_proteins_go_in_windows(model: ESM2) -> None:
    protein = (b"ACDEFGHIKLMNPQRSTVWY")[:20]
    # As test_windows.py has it by hand.
    windows = [(0, 8, 0, 7), (6, 14, 7, 13), (12, 20, 13, 20)]
    states = [expected_states(model, protein[start:stop])[:, -1] for start, stop, _, _ in windows]
    stitched = np.concatenate(
        [
            state[1 + first - start : 1 + last - start]
            for state, (start, _, first, last) in zip(states, windows, strict=True)
        ]
    )
    arguments = {"window": 8, "batch_tokens": 11}
    np.testing.assert_allclose(embed(model, [b"MK", protein], per_residue=True, **arguments)[1], stitched, atol=2e-5)
    np.testing.assert_allclose(embed(model, [b"MK", protein], **arguments)[1], stitched.mean(0), atol=2e-5)
    starts = np.mean([state[0] for state in states], axis=0)
    np.testing.assert_allclose(embed(model, [protein], cls=True, **arguments)[0], starts, atol=2e-5)
    whole = expected_states(model, protein)[1:-1, -1]
    np.testing.assert_allclose(embed(model, [protein], per_residue=True, window=0)[0], whole, atol=2e-5)


def test_half_precision_is_the_rounded_result(model: ESM2) -> None:
    for per_residue in (False, True):
        wide = embed(model, PROTEINS, per_residue=per_residue)
        half = embed(model, PROTEINS, per_residue=per_residue, dtype="float16")
        assert half.values.dtype == np.float16
        np.testing.assert_array_equal(half.values, wide.values.astype(np.float16))


def test_values_beyond_half_precision_are_refused() -> None:
    model = make_model()
    with torch.no_grad():
        model.final_norm.weight.mul_(1e6)
    for per_residue in (False, True):
        with pytest.raises(UserError, match="infinite or not a number in float16: ask for --dtype float32"):
            embed(model, PROTEINS, dtype="float16", per_residue=per_residue)
    embed(model, PROTEINS)


def test_a_class_of_ones_own_has_the_last_word_on_its_last_layer(model: ESM2) -> None:
    class Doubled(ESM2):
        def hidden_states(self, *arguments, **options):
            return 2 * super().hidden_states(*arguments, **options)

    doubled = Doubled(model.config)
    doubled.load_state_dict(model.state_dict())
    np.testing.assert_allclose(embed(doubled, PROTEINS).values, 2 * embed(model, PROTEINS).values, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": [4]}, "the model has no layer 4: 0 is the embedding, 3 or -1 the last layer"),
        ({"layers": [-5]}, "the model has no layer -5"),
        ({"layers": [3, -1]}, "layers are 3, -1: name at least one, and each once"),
        ({"layers": []}, "layers are none: name at least one"),
        ({"dtype": "bfloat16"}, "--dtype is 'bfloat16'; choose from float32, float16"),
        ({"window": 3}, "--window is 3; give at least 4 residues, or 0 for no windows"),
        ({"window": -1}, "--window is -1"),
        ({"cls": True, "per_residue": True}, "--per-residue and --cls exclude each other"),
    ],
)
def test_what_is_impossible_is_refused(model: ESM2, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        embed(model, PROTEINS, **arguments)


def test_the_first_token_of_a_causal_model_is_refused() -> None:
    causal = make_model(dataclasses.replace(SMALL, causal=True, token_dropout=False))
    with pytest.raises(UserError, match="<cls> of a causal model sees no residue"):
        embed(causal, PROTEINS, cls=True)


def test_a_protein_without_residues_is_refused_and_none_at_all_are_none(model: ESM2) -> None:
    with pytest.raises(UserError, match="protein 1 has no residues"):
        embed(model, ["MK", ""])
    assert embed(model, []).values.shape == (0, 32)
    assert len(embed(model, [], per_residue=True)) == 0
