"""Configs, their errors, and what a model costs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import EsmConfig, EsmForMaskedLM

from plm_composer.errors import UserError
from plm_composer.model.config import PRESETS, ESM2Config
from plm_composer.model.cost import parameter_count, training_flops
from plm_composer.model.esm2 import ESM2
from plm_composer.model.weights.huggingface_config import config_to_huggingface
from tests.model.small_models import SMALL, inputs, make_batch, make_model


@pytest.mark.parametrize("name", PRESETS)
def test_parameter_count_is_that_of_the_model(name: str) -> None:
    config = PRESETS[name]
    with torch.device("meta"):
        assert parameter_count(config) == sum(p.numel() for p in ESM2(config).parameters())
        untied = dataclasses.replace(config, tie_word_embeddings=False, contact_head=False)
        assert parameter_count(untied) == sum(p.numel() for p in ESM2(untied).parameters())


@pytest.mark.parametrize(("name", "millions"), [("8m", 8), ("35m", 35), ("150m", 150), ("650m", 650), ("3b", 2800)])
def test_presets_are_the_published_models(name: str, millions: int) -> None:
    config = PRESETS[f"esm2_{name}"]
    with torch.device("meta"):
        theirs = EsmForMaskedLM(EsmConfig(**config_to_huggingface(config)))
    assert parameter_count(config) == sum(p.numel() for p in theirs.parameters())
    assert parameter_count(config) / 1e6 == pytest.approx(millions, rel=0.07)


def test_cramming_model_has_67_million_parameters_and_lacks_its_biases() -> None:
    config = PRESETS["cramming_67m"]
    assert round(parameter_count(config) / 1e6) == 67
    with torch.device("meta"):
        biases = {name for name, _ in ESM2(config).blocks[0].named_parameters() if name.endswith("bias")}
    assert biases == {f"{part}.bias" for part in ("attention.out", "feed_forward.down", "attention_norm",
                                                  "feed_forward_norm")}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 33}, "multiple of 8"),
        ({"hidden_size": 36}, "multiple of 8"),
        ({"num_hidden_layers": 0}, "at least 1"),
        ({"num_hidden_layers": "six"}, "num_hidden_layers: 'six' must be of type int"),
        ({"num_hidden_layers": True}, "must be of type int"),
        ({"qkv_bias": 1}, "must be of type bool"),
        ({"token_dropout_mask_rate": 1.0}, "below 1"),
        ({"layer_norm_eps": 0}, "above 0"),
        ({"hiden_size": 32}, "unknown key 'hiden_size'; did you mean 'hidden_size'"),
    ],
)
def test_impossible_configs_are_clear_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ESM2Config.from_mapping(SMALL.to_mapping() | changes)


def test_missing_key_is_named() -> None:
    values = SMALL.to_mapping()
    del values["intermediate_size"]
    with pytest.raises(UserError, match=r"file.yaml: key 'intermediate_size' is missing"):
        ESM2Config.from_mapping(values, "file.yaml")


def test_mapping_round_trip() -> None:
    for config in PRESETS.values():
        assert ESM2Config.from_mapping(config.to_mapping()) == config


@pytest.mark.parametrize("config", [SMALL, dataclasses.replace(PRESETS["esm2_8m"], num_hidden_layers=2)])
def test_training_flops_are_those_that_torch_counts(config: ESM2Config) -> None:
    model = make_model(config)
    model.attention_backend = "reference"
    lengths = (64, 100, 37)
    batch = make_batch(lengths)["packed"]
    positions = batch["masked_positions"]
    # The plain formula of attention: the fused kernels recompute the scores, which no one counts as work.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**inputs(batch), positions=positions).sum().backward()
    expected = training_flops(config, lengths, len(positions))
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


def test_flops_per_token_grow_with_length() -> None:
    config = PRESETS["esm2_8m"]
    long, short = (training_flops(config, lengths, 77) / 512 for lengths in ([512], [256, 256]))
    assert long > short > 6 * 7e6
