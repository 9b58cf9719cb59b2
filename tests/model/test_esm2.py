"""Our ESM2 against the two others, and packed batches against padded ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import esm.multihead_attention
import pytest
import torch
import torch.nn.functional as F
from esm.model.esm2 import ESM2 as FairESM2
from torch import Tensor
from transformers import AttentionInterface, EsmConfig, EsmForMaskedLM

from plm_composer.errors import UserError
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.weights.fair_esm import from_fair_esm
from plm_composer.model.weights.huggingface_config import config_to_huggingface
from plm_composer.model.weights.huggingface_weights import from_huggingface
from plm_composer.tokenizer import MASK_ID, PAD_ID
from tests.model.small_models import LENGTHS, SMALL, close, inputs, make_batch, make_model, randomise

SHAPES = [
    SMALL,
    ESM2Config(1, 24, 4, 96),
    ESM2Config(2, 40, 2, 160, token_dropout=False),
    ESM2Config(2, 320, 20, 1280),
]
TOLERANCES = [(torch.float64, 1e-10), (torch.float32, 1e-4)]
# transformers rounds the share of <mask> to fp32 even in an fp64 model; of 2^n tokens that share is exact.
TRANSFORMERS_CASES = [
    (torch.float64, 1e-10, (16, 64, 4, 32)),
    (torch.float64, 1e-7, LENGTHS),
    (torch.float32, 1e-4, LENGTHS),
]


def exact_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """The eager attention of transformers, which rounds its softmax to fp32, without that rounding."""
    scores = query @ key.transpose(2, 3) * scaling
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


@pytest.fixture(autouse=True)
def exact_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both other implementations round their softmax to fp32 even in an fp64 model; here they may not."""
    monkeypatch.setattr(esm.multihead_attention, "utils_softmax", lambda x, dim, onnx_trace=False: F.softmax(x, dim))
    AttentionInterface.register("exact", exact_attention)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def transformers_model(config: ESM2Config, dtype: torch.dtype) -> EsmForMaskedLM:
    model = EsmForMaskedLM(EsmConfig(**config_to_huggingface(config), attn_implementation="exact"))
    randomise(model)
    return model.to(dtype).eval()


def ours_from_transformers(model: EsmForMaskedLM, config: ESM2Config, dtype: torch.dtype) -> ESM2:
    ours = ESM2(config).to(dtype).eval()
    ours.load_state_dict(from_huggingface(model.state_dict(), config))
    return ours


def pass_mask_to_embeddings(model: EsmForMaskedLM, attention_mask: Tensor) -> None:
    """transformers 4.57 forgets the mask there and divides the count of <mask> by the padded length."""

    def add(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs | {"attention_mask": attention_mask}

    model.esm.embeddings.register_forward_pre_hook(add, with_kwargs=True)


@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance", "lengths"), TRANSFORMERS_CASES)
@torch.no_grad()
def test_agrees_with_transformers(
    config: ESM2Config, dtype: torch.dtype, tolerance: float, lengths: tuple[int, ...]
) -> None:
    theirs = transformers_model(config, dtype)
    ours = ours_from_transformers(theirs, config, dtype)
    padded = inputs(make_batch(lengths)["padded"])
    logits = ours(**padded)

    for row, length in enumerate(lengths):
        alone = {key: value[row : row + 1, :length] for key, value in padded.items()}
        close(logits[row : row + 1, :length], theirs(**alone).logits, tolerance)

    pass_mask_to_embeddings(theirs, padded["attention_mask"])
    real = padded["attention_mask"].bool()
    close(logits[real], theirs(**padded).logits[real], tolerance)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_agrees_with_transformers_own_attention(implementation: str) -> None:
    theirs = transformers_model(SMALL, torch.float32)
    theirs.set_attn_implementation(implementation)
    ids = inputs(make_batch(lengths=(50,))["padded"])
    close(ours_from_transformers(theirs, SMALL, torch.float32)(**ids), theirs(**ids).logits, 1e-4)


@torch.no_grad()
def test_transformers_shares_masks_over_padding() -> None:
    """Fails when transformers counts padding out of its token dropout: then ``pass_mask_to_embeddings`` can go."""
    theirs = transformers_model(SMALL, torch.float64)
    padded = inputs(make_batch()["padded"])
    alone = theirs(**{key: value[:1, : LENGTHS[0]] for key, value in padded.items()}).logits
    assert (theirs(**padded).logits[:1, : LENGTHS[0]] - alone).abs().max() > 1e-3


@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@torch.no_grad()
def test_agrees_with_fair_esm(config: ESM2Config, dtype: torch.dtype, tolerance: float) -> None:
    theirs = FairESM2(
        config.num_hidden_layers, config.hidden_size, config.num_attention_heads, token_dropout=config.token_dropout
    )
    randomise(theirs)
    theirs = theirs.to(dtype).eval()
    ours = ESM2(config).to(dtype).eval()
    ours.load_state_dict(from_fair_esm(theirs.state_dict(), config))
    padded = inputs(make_batch()["padded"])
    real = padded["attention_mask"].bool()
    expected = theirs(padded["input_ids"], repr_layers=[config.num_hidden_layers], return_contacts=True)

    close(ours(**padded)[real], expected["logits"][real], tolerance)
    close(ours(padded["input_ids"])[real], expected["logits"][real], tolerance)
    hidden = expected["representations"][config.num_hidden_layers]
    close(ours.hidden_states(**padded)[real], hidden[real], tolerance)
    close(ours.predict_contacts(**padded), expected["contacts"], tolerance)


@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance", "lengths"), TRANSFORMERS_CASES)
@torch.no_grad()
def test_contacts_agree_with_transformers(
    config: ESM2Config, dtype: torch.dtype, tolerance: float, lengths: tuple[int, ...]
) -> None:
    theirs = transformers_model(config, dtype)
    ours = ours_from_transformers(theirs, config, dtype)
    padded = inputs(make_batch(lengths)["padded"])
    pass_mask_to_embeddings(theirs, padded["attention_mask"])
    expected = theirs.predict_contacts(padded["input_ids"], padded["attention_mask"].to(dtype))
    actual = ours.predict_contacts(**padded)
    assert actual.shape == (len(lengths), max(lengths) - 2, max(lengths) - 2)
    close(actual, expected, tolerance)


@pytest.mark.parametrize("variant", [{}, {"qkv_bias": False, "intermediate_bias": False}, {"token_dropout": False}])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_packed_equals_padded(variant: dict[str, bool], dtype: torch.dtype, tolerance: float) -> None:
    model = make_model(dataclasses.replace(SMALL, **variant), dtype)
    batch = make_batch()
    real = batch["padded"]["attention_mask"].bool()
    gradients = []
    logits = []
    for form in ("padded", "packed"):
        model.zero_grad()
        out = model(**inputs(batch[form]))
        logits.append(out[real] if form == "padded" else out)
        weights = torch.linspace(-1, 1, logits[-1].numel(), dtype=dtype).view_as(logits[-1])
        (logits[-1] * weights).mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    close(logits[1], logits[0], tolerance)
    assert gradients[0].keys() == gradients[1].keys()
    for name in gradients[0]:
        close(gradients[1][name], gradients[0][name], tolerance)


@torch.no_grad()
def test_selected_positions_have_the_same_logits() -> None:
    model, batch = make_model(), make_batch()
    for form in ("padded", "packed"):
        select = batch[form]["labels"] != -100
        logits = model(**inputs(batch[form]), positions=batch[form]["masked_positions"])
        close(logits, model(**inputs(batch[form]))[select], 1e-5)


@torch.no_grad()
def test_a_protein_does_not_see_its_neighbours() -> None:
    model, packed = make_model(), inputs(make_batch()["packed"])
    before = model(**packed)
    packed["input_ids"] = packed["input_ids"].clone()
    packed["input_ids"][LENGTHS[0] :] = MASK_ID
    assert torch.equal(model(**packed)[: LENGTHS[0]], before[: LENGTHS[0]])


@pytest.mark.parametrize("lengths", [(1,), (2,), (1, 1, 2), (300,), (5, 0, 4)])
@torch.no_grad()
def test_odd_lengths_stay_finite(lengths: tuple[int, ...]) -> None:
    model = make_model()
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    ids = torch.randint(4, 24, (sum(lengths),))
    for input_ids in (ids, torch.full_like(ids, MASK_ID)):
        logits = model(input_ids, cu_seqlens=cu_seqlens, max_seqlen=max(lengths))
        assert logits.shape == (sum(lengths), 33)
        assert logits.isfinite().all()


@torch.no_grad()
def test_mask_rate_scales_the_embeddings() -> None:
    low = make_model(dataclasses.replace(SMALL, token_dropout_mask_rate=0.12))
    high = make_model(dataclasses.replace(SMALL, token_dropout_mask_rate=0.25))
    low.embedding.weight.mul_(0.75 / 0.88)
    packed = inputs(make_batch()["packed"])
    close(low.hidden_states(**packed), high.hidden_states(**packed), 1e-5)


def test_initialisation_is_normal_and_follows_the_seed() -> None:
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(ESM2(SMALL).state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert not torch.equal(models[0]["embedding.weight"], models[2]["embedding.weight"])
    for name, value in models[0].items():
        if name.startswith("contact_head"):
            continue
        if value.dim() > 1:
            assert 0.017 < value.std() < 0.023, name
            assert abs(value.mean()) < 0.003, name
        else:
            assert torch.equal(value, torch.full_like(value, float("norm" in name and name.endswith("weight")))), name
    assert not models[0]["embedding.weight"][PAD_ID].any()


def test_bf16_autocast_is_close_and_its_logits_are_fp32() -> None:
    model, packed = make_model(), inputs(make_batch()["packed"])
    expected = model(**packed)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = model(**packed)
    assert actual.dtype == torch.float32
    assert (actual - expected).norm() / expected.norm() < 0.02
    actual.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_no_contact_head_is_a_clear_error() -> None:
    model = make_model(dataclasses.replace(SMALL, contact_head=False))
    with pytest.raises(UserError, match="contact_head"):
        model.predict_contacts(make_batch()["padded"]["input_ids"])


def test_untied_decoder_is_used() -> None:
    model = make_model(dataclasses.replace(SMALL, tie_word_embeddings=False))
    packed = inputs(make_batch()["packed"])
    with torch.no_grad():
        before = model(**packed)
        model.decoder.weight.mul_(2)
        close(model(**packed) - model.lm_head.bias, 2 * (before - model.lm_head.bias), 1e-4)
