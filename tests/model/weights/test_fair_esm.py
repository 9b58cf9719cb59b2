"""The weight files of fair-esm, both ways."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import esm.pretrained
import pytest
import torch
from esm.model.esm2 import ESM2 as FairESM2

from plm_composer.errors import UserError
from plm_composer.model.config import ESM2Config
from plm_composer.model.weights.fair_esm import from_fair_esm, load_fair_esm, save_fair_esm, to_fair_esm
from tests.model.small_models import SMALL, VARIANTS, close, make_batch, make_model, randomise


def test_state_dict_there_and_back_is_bit_equal() -> None:
    theirs = FairESM2(SMALL.num_hidden_layers, SMALL.hidden_size, SMALL.num_attention_heads)
    randomise(theirs)
    back = to_fair_esm(from_fair_esm(theirs.state_dict(), SMALL), SMALL)
    assert back.keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert torch.equal(back[name], value), name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qkv_bias": False, "intermediate_bias": False},
        {"token_dropout_mask_rate": 0.25},
        {"token_dropout": False},
        VARIANTS["no biases"],
        VARIANTS["scales"],
    ],
    ids=str,
)
@torch.no_grad()
def test_fair_esm_loads_our_file_and_says_the_same(changes: dict[str, float], tmp_path: Path) -> None:
    model = make_model(dataclasses.replace(SMALL, **changes))
    save_fair_esm(model.state_dict(), model.config, tmp_path / "esm2_small.pt")
    with torch.serialization.safe_globals([argparse.Namespace]):
        theirs, _ = esm.pretrained.load_model_and_alphabet_local(tmp_path / "esm2_small.pt")
    theirs = theirs.eval()
    padded = make_batch()["padded"]
    real = padded["attention_mask"].bool()
    close(model(padded["input_ids"])[real], theirs(padded["input_ids"])["logits"][real], 1e-4)
    close(model.predict_contacts(padded["input_ids"]), theirs.predict_contacts(padded["input_ids"]), 1e-4)


@torch.no_grad()
def test_other_mask_rates_are_exported_exactly() -> None:
    model = make_model(dataclasses.replace(SMALL, token_dropout_mask_rate=0.4), torch.float64)
    plain = make_model(SMALL, torch.float64)
    plain.load_state_dict(from_fair_esm(to_fair_esm(model.state_dict(), model.config), SMALL))
    padded = make_batch()["padded"]["input_ids"]
    close(model(padded), plain(padded), 1e-10)


def test_our_file_comes_back_bit_equal(tmp_path: Path) -> None:
    model = make_model()
    save_fair_esm(model.state_dict(), model.config, tmp_path / "esm2_small.pt")
    config, state_dict = load_fair_esm(tmp_path / "esm2_small.pt")
    assert config == model.config
    assert state_dict.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state_dict[name]) for name, value in model.state_dict().items())


def test_published_files_with_prefixes_and_without_contacts_are_read(tmp_path: Path) -> None:
    model = make_model()
    path = tmp_path / "esm2_t3_small.pt"
    save_fair_esm(model.state_dict(), model.config, path)
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, weights_only=True)
    content["model"] = {
        f"encoder.{name}" if name.startswith("lm_head") else f"encoder.sentence_encoder.{name}": value
        for name, value in content["model"].items()
        if "inv_freq" not in name
    }
    torch.save(content, path)
    assert load_fair_esm(path)[0] == model.config
    (tmp_path / "esm2_t3_small-contact-regression.pt").unlink()
    config, state_dict = load_fair_esm(path)
    assert config == dataclasses.replace(SMALL, contact_head=False)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state_dict.items())


@pytest.mark.parametrize(
    ("config", "name", "message"),
    [
        (dataclasses.replace(SMALL, intermediate_size=64), "esm2_x.pt", "intermediate_size"),
        (dataclasses.replace(SMALL, tie_word_embeddings=False), "esm2_x.pt", "tie_word_embeddings"),
        (dataclasses.replace(SMALL, layer_norm_eps=1e-6), "esm2_x.pt", "layer_norm_eps"),
        (dataclasses.replace(SMALL, qk_norm=True), "esm2_x.pt", "qk_norm: fair-esm supports only ESM2's own"),
        (SMALL, "model.pt", "call the file esm2_something.pt"),
    ],
)
def test_what_fair_esm_cannot_hold_is_refused(config: ESM2Config, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        save_fair_esm(make_model(config).state_dict(), config, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_broken_files_are_clear_errors(tmp_path: Path) -> None:
    path = tmp_path / "esm2_x.pt"
    with pytest.raises(UserError, match=r"esm2_x.pt: no such file"):
        load_fair_esm(path)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"esm2_x.pt: not a PyTorch file"):
        load_fair_esm(path)
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"esm2_x.pt: not an ESM2 file of fair-esm"):
        load_fair_esm(path)
    save_fair_esm(make_model().state_dict(), SMALL, path)
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, weights_only=True)
    del content["model"]["layers.1.fc1.weight"]
    torch.save(content, path)
    with pytest.raises(UserError, match=r"weight 'layers.1.fc1.weight' is missing"):
        load_fair_esm(path)
