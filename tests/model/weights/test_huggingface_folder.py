"""Folders that transformers reads, and folders of transformers that we read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoTokenizer, EsmConfig, EsmForMaskedLM
from transformers import logging as transformers_logging

from plm_composer.errors import UserError
from plm_composer.model.config import PRESETS, ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.weights.huggingface_config import config_to_huggingface
from plm_composer.model.weights.huggingface_folder import load_huggingface, read_config, save_huggingface
from plm_composer.model.weights.huggingface_weights import from_huggingface, to_huggingface
from plm_composer.model.weights.naming import inexpressible
from plm_composer.tokenizer import VOCABULARY, encode
from tests.model.small_models import SMALL, close, inputs, make_batch, make_model, randomise
from tests.model.small_models import VARIANTS as ARCHITECTURES

VARIANTS = {
    "esm2": {},
    "no biases": {"qkv_bias": False, "intermediate_bias": False},
    "25 % masks": {"token_dropout_mask_rate": 0.25},
    "25 % masks, untied": {"token_dropout_mask_rate": 0.25, "tie_word_embeddings": False},
    "no token dropout": {"token_dropout": False, "token_dropout_mask_rate": 0.25},
    "untied": {"tie_word_embeddings": False},
    "no contact head": {"contact_head": False},
    "no biases at all": ARCHITECTURES["no biases"],
    "scales": ARCHITECTURES["scales"],
    "scales, untied": {**ARCHITECTURES["scales"], "tie_word_embeddings": False},
    "same width of heads": {"attention_head_size": 8},
    "other widths": {"intermediate_size": 72, "layer_norm_eps": 1e-3, "num_attention_heads": 2},
}


def variant(name: str) -> ESM2Config:
    return dataclasses.replace(SMALL, **VARIANTS[name])


def load_theirs(folder: Path) -> EsmForMaskedLM:
    model, info = EsmForMaskedLM.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not any(info.values()), info
    return model.eval()


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_transformers_loads_our_folder_and_says_the_same(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    transformers_logging.set_verbosity_warning()
    config = variant(name)
    model = make_model(config)
    save_huggingface(model, tmp_path)
    theirs = load_theirs(tmp_path)
    assert capfd.readouterr().err == ""
    for mask_rate in (0.0, 0.3):
        # One protein at a time: transformers 4.57 counts padding into its token dropout.
        for length in (40, 7):
            ids = inputs(make_batch((length,), mask_rate=mask_rate)["padded"])
            close(model(**ids), theirs(**ids).logits, 1e-4)
            if config.contact_head:
                close(model.predict_contacts(**ids), theirs.predict_contacts(**ids_of(ids)), 1e-4)


def ids_of(ids: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"tokens": ids["input_ids"], "attention_mask": ids["attention_mask"].float()}


@pytest.mark.parametrize("name", ["25 % masks", "25 % masks, untied", "scales", "scales, untied"])
@torch.no_grad()
def test_other_mask_rates_and_scales_are_exported_exactly(name: str) -> None:
    model = make_model(variant(name), torch.float64)
    theirs = EsmForMaskedLM(EsmConfig(**config_to_huggingface(model.config), attn_implementation="sdpa"))
    theirs = theirs.double().eval()
    theirs.load_state_dict(to_huggingface(model.state_dict(), model.config))
    for mask_rate in (0.0, 0.3, 0.9):
        ids = inputs(make_batch((64,), mask_rate=mask_rate)["padded"])
        close(model(**ids), theirs(**ids).logits, 1e-10)


@pytest.mark.parametrize("name", VARIANTS)
def test_our_folder_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    model = make_model(variant(name))
    save_huggingface(model, tmp_path)
    config, state_dict = load_huggingface(tmp_path)
    assert config == model.config
    expected = model.state_dict()
    assert state_dict.keys() == expected.keys()
    rounding = 1e-7 if name in ("25 % masks, untied", "scales", "scales, untied") else 0.0
    for key, value in state_dict.items():
        close(value, expected[key], rounding)
    ESM2(config).load_state_dict(state_dict)


OWN = sorted(name for name, changes in ARCHITECTURES.items() if inexpressible(dataclasses.replace(SMALL, **changes)))


@pytest.mark.parametrize("name", OWN)
@torch.no_grad()
def test_what_transformers_cannot_compute_comes_back_bit_for_bit_and_is_refused_there_without_its_code(
    name: str, tmp_path: Path
) -> None:
    model = make_model(dataclasses.replace(SMALL, **ARCHITECTURES[name]))
    save_huggingface(model, tmp_path)
    config, state_dict = load_huggingface(tmp_path)
    assert config == model.config == read_config(tmp_path)
    back = ESM2(config)
    back.load_state_dict(state_dict)
    packed = inputs(make_batch()["packed"])
    assert torch.equal(back.eval()(**packed), model(**packed))
    for theirs in (AutoModelForMaskedLM, EsmForMaskedLM):
        with pytest.raises((ValueError, TypeError, KeyError)):
            theirs.from_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("MK")["input_ids"] == [0, 20, 15, 2]


def test_what_differs_from_esm2_in_training_alone_is_an_esm2() -> None:
    assert OWN == [
        "alibi",
        "alibi, 3 heads, qk_norm",
        "both residuals, causal, qk_norm",
        "causal",
        "causal, alibi, convolution",
        "convolution",
        "embedding residual",
        "qk_norm",
        "qk_norm, rmsnorm",
        "rmsnorm",
        "swiglu",
        "value residual",
        "wide heads",
    ]


def test_own_folders_that_are_damaged_are_one_line(tmp_path: Path) -> None:
    save_huggingface(make_model(dataclasses.replace(SMALL, qk_norm=True)), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "blocks.1.attention.key_norm.weight"
    for changed, message in (
        ({key: value for key, value in weights.items() if key != name}, f"weight '{name}' is missing"),
        (weights | {name: torch.zeros(3)}, rf"weight '{name}' has shape \(3,\), but the config says \(8,\)"),
        (weights | {"more": torch.zeros(3)}, "unexpected weight 'more'"),
    ):
        save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(UserError, match=message):
            load_huggingface(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "plm_composer"}))
    with pytest.raises(UserError, match="section 'plm_composer' is missing"):
        load_huggingface(tmp_path)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("parts", [False, True])
def test_folder_of_transformers_there_and_back(tied: bool, parts: bool, tmp_path: Path) -> None:
    values = {key: value for key, value in config_to_huggingface(SMALL).items() if key != "plm_composer"}
    theirs = EsmForMaskedLM(EsmConfig(**{**values, "tie_word_embeddings": tied}))
    randomise(theirs)
    theirs.save_pretrained(tmp_path, max_shard_size="30KB" if parts else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == parts
    config, state_dict = load_huggingface(tmp_path)
    assert config == dataclasses.replace(SMALL, tie_word_embeddings=tied)
    back, original = to_huggingface(state_dict, config), theirs.state_dict()
    for name, value in original.items():
        assert torch.equal(value, back[name] if name in back else back["esm.embeddings.word_embeddings.weight"]), name
    assert back.keys() <= original.keys()


def test_pytorch_files_and_old_buffers_are_read(tmp_path: Path) -> None:
    model = make_model()
    save_huggingface(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["esm.embeddings.position_ids"] = torch.arange(1026)[None]
    weights["lm_head.decoder.weight"] = weights["esm.embeddings.word_embeddings.weight"].clone()
    weights = {name: value for name, value in weights.items() if "inv_freq" not in name}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    _, state_dict = load_huggingface(tmp_path)
    assert all(torch.equal(value, state_dict[name]) for name, value in model.state_dict().items())


def test_tokenizer_of_the_folder_is_ours(tmp_path: Path) -> None:
    save_huggingface(make_model(), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert type(tokenizer).__name__.startswith("EsmTokenizer")
    residues = "LAGVSERTIDPKQNFYMHWCXBUZOJ.-"
    assert tokenizer(residues)["input_ids"] == [0, *encode(residues.encode()).tolist(), 2]
    assert tokenizer.get_vocab() == {token: number for number, token in enumerate(VOCABULARY)}
    assert tokenizer.tokenize("MK<mask>L") == ["M", "K", "<mask>", "L"]
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.unk_token_id) == (1, 32, 3)


def test_a_folder_changed_by_transformers_is_refused_where_it_contradicts_its_section(tmp_path: Path) -> None:
    model = make_model(dataclasses.replace(SMALL, qkv_bias=False, token_dropout_mask_rate=0.25))
    save_huggingface(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in ("esm.encoder.layer.1.attention.self.query.bias", "lm_head.decoder.weight"):
        save_file(weights | {name: weights[name] + 1}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=f"model.safetensors: .*{name.split('.')[-2]}.*plm_composer"):
            load_huggingface(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["plm_composer"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert load_huggingface(tmp_path)[0] == dataclasses.replace(SMALL, tie_word_embeddings=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "lm_head.dense.weight"}, "weight 'lm_head.dense.weight' is missing"),
        ({"drop": "esm.embeddings.word_embeddings.weight"}, "word_embeddings.weight' is missing"),
        ({"add": "esm.pooler.dense.weight"}, "unexpected weight 'esm.pooler.dense.weight'"),
        ({"reshape": "esm.encoder.layer.2.intermediate.dense.weight"}, r"has shape \(5, 5\), but .* \(128, 32\)"),
    ],
)
def test_wrong_weights_are_named(change: dict[str, str], message: str) -> None:
    weights = to_huggingface(make_model().state_dict(), SMALL)
    weights.pop(change.get("drop", ""), None)
    for name in (change.get("add"), change.get("reshape")):
        if name:
            weights[name] = torch.zeros(5, 5)
    with pytest.raises(UserError, match=f"the file: .*{message}"):
        from_huggingface(weights, SMALL, "the file")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "model_type is 'bert'"),
        ({"position_embedding_type": "absolute"}, "position_embedding_type is 'absolute'"),
        ({"emb_layer_norm_before": True}, "emb_layer_norm_before is True"),
        ({"is_folding_model": True}, "is_folding_model is True"),
        ({"vocab_size": 34}, "vocab_size is 34"),
        ({"plm_composer": {**SMALL.to_mapping(), "qk_norm": True}}, "model_type is 'esm', but plm_composer.qk_norm"),
        ({"plm_composer": {"hidden_size": 32}}, "plm_composer: key 'num_hidden_layers' is missing"),
    ],
)
def test_other_models_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_to_huggingface(SMALL) | changes))
    with pytest.raises(UserError, match=f"config.json: {message}"):
        load_huggingface(tmp_path)


def test_broken_folders_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config.json: no such file"):
        load_huggingface(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json: cannot be read as JSON"):
        load_huggingface(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config_to_huggingface(SMALL)))
    with pytest.raises(UserError, match="holds no weights"):
        load_huggingface(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"pytorch_model.bin: not a PyTorch file"):
        load_huggingface(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"model.safetensors: cannot be read"):
        load_huggingface(tmp_path)
    (tmp_path / "vocab.txt").write_text("A\nB")
    with pytest.raises(UserError, match=r"vocab.txt: not the 33 tokens"):
        load_huggingface(tmp_path)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_the_keys_and_shapes_of_transformers(name: str) -> None:
    config = PRESETS[name]
    with torch.device("meta"):
        theirs = EsmForMaskedLM(EsmConfig(**config_to_huggingface(config))).state_dict()
        ours = to_huggingface(ESM2(config).state_dict(), config)
    theirs.pop("lm_head.decoder.weight")
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
