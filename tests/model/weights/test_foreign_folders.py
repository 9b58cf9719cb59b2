"""Folders as other programs and other versions write them: read as these read them, or refused in one line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import esm
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import EsmConfig, EsmForMaskedLM, EsmForSequenceClassification, EsmModel

from plm_composer.errors import UserError
from plm_composer.inference.embedding.in_memory import embed
from plm_composer.inference.load import load_trained
from plm_composer.model.weights.fair_esm import load_fair_esm, save_fair_esm
from plm_composer.model.weights.huggingface_folder import (
    check_huggingface,
    load_huggingface,
    read_config,
    save_huggingface,
)
from tests.model.small_models import SMALL, make_model
from tests.model.weights.in_transformers5 import IDS

HALVED = tuple((1 / 10000 ** (torch.arange(0, 8, 2).float() / 8)).half().float().tolist())
"""ESM2's rotary frequencies for heads of 8, rounded to fp16."""
TRANSFORMERS_5 = Path(sys.prefix) / "transformers5"


def run_transformers_5(mode: str, folder: Path) -> torch.Tensor:
    """Runs ``in_transformers5.py`` beside transformers 5, and returns the logits that it found."""
    if not TRANSFORMERS_5.is_dir():
        pytest.skip("no transformers 5; `make test` installs it")
    script = Path(__file__).with_name("in_transformers5.py")
    environment = {**os.environ, "PYTHONPATH": str(TRANSFORMERS_5)}
    result = subprocess.run([sys.executable, script, mode, folder], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return torch.load(folder / "logits.pt")


def esm_config(**changes: Any) -> EsmConfig:
    return EsmConfig(
        vocab_size=33, mask_token_id=32, pad_token_id=1, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.3,
        position_embedding_type="rotary", layer_norm_eps=1e-5, token_dropout=True, emb_layer_norm_before=False,
        **changes,
    )  # fmt: skip


@torch.no_grad()
def test_a_folder_of_transformers_5_says_the_same(tmp_path: Path) -> None:
    theirs = run_transformers_5("make", tmp_path)
    assert any(name.endswith(("gamma", "layer.*.attention.self.rotary_embeddings.inv_freq"))
               for name in load_file(tmp_path / "model.safetensors"))  # fmt: skip
    check_huggingface(tmp_path)
    torch.testing.assert_close(load_trained(tmp_path).model(IDS), theirs, rtol=0, atol=1e-5)
    # Without the stored frequencies, the key of the config decides.
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value.clone() for name, value in weights.items() if not name.endswith("inv_freq")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    torch.testing.assert_close(load_trained(tmp_path).model(IDS), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frequencies", [None, HALVED])
@torch.no_grad()
def test_transformers_5_says_the_same_of_an_export(frequencies: tuple[float, ...] | None, tmp_path: Path) -> None:
    model = make_model(dataclasses.replace(SMALL, rotary_frequencies=frequencies)).float().eval()
    save_huggingface(model, tmp_path)
    torch.testing.assert_close(model(IDS), run_transformers_5("read", tmp_path), rtol=0, atol=1e-4)


@torch.no_grad()
def test_stored_rotary_frequencies_are_used(tmp_path: Path) -> None:
    theirs = EsmForMaskedLM(esm_config()).eval()
    plain = theirs(IDS).logits
    for layer in theirs.esm.encoder.layer:
        rotary = layer.attention.self.rotary_embeddings
        rotary.inv_freq = rotary.inv_freq.half().float()
    theirs.save_pretrained(tmp_path)
    theirs = EsmForMaskedLM.from_pretrained(tmp_path).eval()
    assert not torch.equal(theirs(IDS).logits, plain)
    loaded = load_trained(tmp_path).model
    assert loaded.config.rotary_frequencies == read_config(tmp_path).rotary_frequencies == HALVED
    torch.testing.assert_close(loaded(IDS), theirs(IDS).logits, rtol=0, atol=1e-5)

    # And back, in both formats.
    save_huggingface(loaded, tmp_path / "again")
    again = EsmForMaskedLM.from_pretrained(tmp_path / "again").eval()
    torch.testing.assert_close(again(IDS).logits, theirs(IDS).logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_fair_esm_has_the_same_rotary_frequencies(tmp_path: Path) -> None:
    model = make_model(dataclasses.replace(SMALL, rotary_frequencies=HALVED)).eval()
    path = tmp_path / "esm2_small.pt"
    save_fair_esm(model.state_dict(), model.config, path)
    with torch.serialization.safe_globals([argparse.Namespace]):
        theirs, _ = esm.pretrained.load_model_and_alphabet_local(path)
    assert theirs.layers[0].self_attn.rot_emb.inv_freq.tolist() == list(HALVED)
    config, _ = load_fair_esm(path)
    assert config.rotary_frequencies == HALVED


def test_layers_with_different_rotary_frequencies_are_refused(tmp_path: Path) -> None:
    theirs = EsmForMaskedLM(esm_config())
    theirs.esm.encoder.layer[1].attention.self.rotary_embeddings.inv_freq *= 2
    theirs.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="the layers have different rotary frequencies"):
        load_huggingface(tmp_path)


@pytest.mark.parametrize("kind", [EsmModel, EsmForSequenceClassification])
@torch.no_grad()
def test_embeddings_need_no_head(kind: type, tmp_path: Path) -> None:
    theirs = kind(esm_config()).eval()
    theirs.save_pretrained(tmp_path)
    for refused in (load_trained, check_huggingface):
        with pytest.raises(UserError, match="holds no language-model head"):
            refused(tmp_path)
    model = load_trained(tmp_path, head_required=False).model
    base = getattr(theirs, "esm", theirs)
    expected = base(torch.tensor([[0, 20, 15, 11, 2]])).last_hidden_state[0, 1:-1].mean(0)
    torch.testing.assert_close(torch.from_numpy(embed(model, [b"MKT"])[0]), expected, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="no language-model head"):
        model(IDS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_map", {"AutoModel": "modeling.Other"}),
        ("quantization_config", {"bits": 4}),
        ("pruned_heads", {"0": [1]}),
        ("rope_scaling", {"type": "linear"}),
        ("rope_theta", "big"),
        ("is_decoder", True),
    ],
)
def test_keys_that_make_another_model_are_refused(key: str, value: Any, tmp_path: Path) -> None:
    EsmForMaskedLM(esm_config()).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, key: value}))
    with pytest.raises(UserError, match=f"config.json: {key} is "):
        load_huggingface(tmp_path)


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    EsmForMaskedLM(esm_config()).save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="merge it into the weights first"):
        load_huggingface(tmp_path)


def test_an_incomplete_folder_is_told_without_reading_weights(tmp_path: Path) -> None:
    EsmForMaskedLM(esm_config()).save_pretrained(tmp_path)
    # Copies: older versions map the file, which is written anew.
    weights = {name: value.clone() for name, value in load_file(tmp_path / "model.safetensors").items()}
    del weights["esm.encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"weight 'esm\.encoder\.layer\.1\.output\.dense\.weight' is missing"):
        check_huggingface(tmp_path)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"pytorch_model\.bin: weight .* is missing"):
        check_huggingface(tmp_path)
