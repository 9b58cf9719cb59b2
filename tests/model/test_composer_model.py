"""Loss, metrics and sharding hooks, with Composer's own Trainer where it matters."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from composer import DataSpec, Trainer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.model.esm2 import ESM2Block
from plm_composer.model.parallelize import parallelize
from plm_composer.tokenizer import IGNORE_INDEX
from tests.model.small_models import SMALL, close, inputs, make_batch, make_model

FORMS = ["padded", "packed"]


@pytest.mark.parametrize("form", FORMS)
def test_loss_is_cross_entropy_over_all_logits(form: str) -> None:
    model = ESM2ComposerModel(make_model())
    batch = make_batch()[form]
    logits = model.model(**inputs(batch))
    outputs = model(batch)
    assert outputs.logits.shape == (int((batch["labels"] != IGNORE_INDEX).sum()), 33)
    close(model.loss(outputs, batch), F.cross_entropy(logits.flatten(0, -2), batch["labels"].flatten()), 1e-5)


def test_z_loss_is_palms_and_only_in_training() -> None:
    batch = make_batch()["packed"]
    model, plain = (ESM2ComposerModel(make_model(dataclasses.replace(SMALL, z_loss=weight))) for weight in (0.25, 0.0))
    outputs = model(batch)
    z = outputs.logits.exp().sum(-1).log()
    close(model.loss(outputs, batch) - plain.loss(outputs, batch), 0.25 * (z * z).mean(), 1e-5)
    assert model.eval().loss(outputs, batch) == plain.loss(outputs, batch)
    metric = model.get_metrics(is_train=True)["masked_nll"]
    model.train().update_metric(batch, outputs, metric)
    close(metric.compute(), plain.loss(outputs, batch), 1e-5)


def test_both_forms_give_the_same_loss_and_gradients() -> None:
    results = []
    for form in FORMS:
        model = ESM2ComposerModel(make_model())
        batch = make_batch()[form]
        loss = model.loss(model(batch), batch)
        loss.backward()
        results.append((loss, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}))
    close(results[0][0], results[1][0], 1e-5)
    for name, gradient in results[0][1].items():
        close(gradient, results[1][1][name], 1e-5)


@pytest.mark.parametrize("autocast_dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_batch_without_masked_tokens(form: str, autocast_dtype: torch.dtype | None) -> None:
    model = ESM2ComposerModel(make_model(), autocast_dtype)
    batch = make_batch(mask_rate=0.0)[form]
    loss = model.loss(model(batch), batch)
    loss.backward()
    assert loss == 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name


def test_every_trainable_parameter_gets_a_gradient() -> None:
    model = ESM2ComposerModel(make_model())
    batch = make_batch()["packed"]
    model.loss(model(batch), batch).backward()
    missing = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not missing
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"model.contact_head.regression.weight", "model.contact_head.regression.bias"}


def test_metrics_weigh_tokens_not_batches() -> None:
    model = ESM2ComposerModel(make_model())
    metrics = model.get_metrics(is_train=False)
    logits, targets = [], []
    with torch.no_grad():
        for seed, lengths in enumerate([(9,), (80, 120, 30), (5, 5), (4, 4, 4)]):
            batch = make_batch(lengths, seed)["packed"]
            outputs = model.eval_forward(batch)
            for metric in metrics.values():
                model.update_metric(batch, outputs, metric)
            logits.append(outputs.logits)
            targets.append(outputs.targets)
    all_logits, all_targets = torch.cat(logits), torch.cat(targets)
    expected = F.cross_entropy(all_logits, all_targets)
    close(metrics["masked_nll"].compute(), expected, 1e-5)
    assert metrics["perplexity"].compute() == pytest.approx(float(expected.exp()), rel=1e-5)
    close(metrics["accuracy"].compute(), (all_logits.argmax(-1) == all_targets).float().mean(), 1e-6)


def test_autocast_is_ours_on_request_only() -> None:
    batch = make_batch()["packed"]
    seen: list[torch.dtype] = []
    expected = {None: torch.float32, torch.bfloat16: torch.bfloat16}
    losses = {}
    for dtype, inside in expected.items():
        model = ESM2ComposerModel(make_model(), dtype)
        model.model.blocks[0].feed_forward.up.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
        outputs = model(batch)
        losses[dtype] = model.loss(outputs, batch)
        assert seen.pop() == inside
        assert outputs.logits.dtype == losses[dtype].dtype == torch.float32
    assert float(losses[torch.bfloat16]) == pytest.approx(float(losses[None]), rel=0.02)
    # One that is active already stays as it is.
    with torch.autocast("cpu", dtype=torch.float16):
        model(batch)
    assert seen.pop() == torch.float16


@pytest.mark.parametrize("form", FORMS)
def test_flops_per_batch_counts_real_tokens(form: str) -> None:
    model = ESM2ComposerModel(make_model())
    model.model.attention_backend = "reference"
    batch = make_batch((64, 64, 64))[form]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.loss(model(batch), batch).backward()
    assert model.flops_per_batch(batch) == pytest.approx(counter.get_total_flops(), rel=0.02)
    uneven = make_batch((64, 10, 30))
    assert model.flops_per_batch(uneven["padded"]) == model.flops_per_batch(uneven["packed"])


class Batches(torch.utils.data.Dataset[dict[str, Any]]):
    """Ready-made batches, one an item."""

    def __init__(self, form: str) -> None:
        self.batches = [make_batch((12, 30, 7), seed)[form] for seed in range(4)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.batches[index]


def data_spec(form: str) -> DataSpec:
    loader = torch.utils.data.DataLoader(Batches(form), batch_size=None)
    return DataSpec(
        loader,
        get_num_samples_in_batch=lambda _batch: 3,
        get_num_tokens_in_batch=lambda _batch: 49,
        split_batch=lambda batch, _size: [batch],
    )


@pytest.mark.parametrize("form", FORMS)
def test_trains_and_evaluates_under_composer(form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ESM2ComposerModel(make_model(), autocast_dtype=torch.bfloat16)
    before = copy.deepcopy(model.state_dict())
    trainer = Trainer(
        model=model,
        train_dataloader=data_spec(form),
        eval_dataloader=data_spec(form),
        optimizers=torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2),
        max_duration="6ep",
        device_train_microbatch_size=3,
        device="cpu",
        progress_bar=False,
        auto_log_hparams=False,
        seed=1,
    )
    trainer.eval()
    first = float(trainer.state.eval_metrics["eval"]["masked_nll"].compute())
    trainer.fit()
    last = trainer.state.eval_metrics["eval"]
    assert float(last["masked_nll"].compute()) < first - 0.3
    assert float(last["perplexity"].compute()) == pytest.approx(float(last["masked_nll"].compute().exp()), rel=1e-5)
    assert set(trainer.state.train_metrics) == {"masked_nll", "perplexity", "accuracy"}
    after = model.state_dict()
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert unchanged == {"model.contact_head.regression.weight", "model.contact_head.regression.bias"}
    trainer.close()


def test_the_hook_of_sharding_names_the_blocks() -> None:
    model = ESM2ComposerModel(make_model()).model
    parallelize(model)
    assert [module for module in model.modules() if model.fsdp_wrap_fn(module)] == list(model.blocks)
    assert all(isinstance(block, ESM2Block) for block in model.blocks)
    assert SMALL.num_hidden_layers == len(model.blocks)
