"""Blocks that are compiled or recomputed: the same results, one graph without a break, and no second compilation."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import itertools
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.parallelize import AUTO, compile_arguments, parallelize
from tests.model.small_models import SMALL, VARIANTS, close, make_batch, make_model

RESIDUALS = ("value residual", "embedding residual")
BATCHES = [(17, 40), (9, 31, 22), (50,), (3, 4, 5, 6), (30, 30)]
HAS_COMPILER = shutil.which(os.environ.get("CXX", "g++")) is not None


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def train_on(model: ESM2, lengths: tuple[int, ...], form: str, bf16: bool = False) -> list[torch.Tensor]:
    """The loss and all gradients."""
    trained = ESM2ComposerModel(model, torch.bfloat16 if bf16 else None).train()
    trained.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    batch = make_batch(lengths)[form]
    loss = trained.loss(trained(batch), batch)
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]


def compiled_graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.parametrize(
    ("name", "form", "recomputes"),
    [
        *((name, "packed", False) for name in ("esm2", *VARIANTS)),
        *((name, "padded", False) for name in ("esm2", "alibi", "convolution", "layer drop")),
        *(
            (name, "packed", True)
            for name in ("esm2", "convolution", "layer drop", "value residual", "embedding residual")
        ),
    ],
)
def test_each_block_is_one_graph_for_all_blocks_and_batches(name: str, form: str, recomputes: bool) -> None:
    config = dataclasses.replace(SMALL, **VARIANTS.get(name, {}))
    plain, compiled = make_model(config), make_model(config)
    # The graphs are captured as for any backend, and run as they are.
    arguments = {"backend": "aot_eager", "fullgraph": True}
    parallelize(compiled, activation_checkpointing=recomputes, compile_arguments=arguments)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    # One row is a case of its own to torch.
    for number, lengths in enumerate(each for each in BATCHES if len(each) > 1 or form == "packed"):
        with torch._dynamo.config.patch(error_on_recompile=number >= 2):
            found = train_on(compiled, lengths, form)
        for one, other in zip(found, train_on(plain, lengths, form), strict=True):
            close(one, other, 1e-5)
    # Where two numbers happen to be equal in the first batch, heads and bounds or one protein that is left, torch takes
    # that for a rule, and compiles once more. With residuals, the first block differs: it has nothing to mix.
    coincides = name in ("alibi, 3 heads, qk_norm", "layer drop")
    expected = 2 if config.value_residual or config.embedding_residual else 1
    assert compiled_graphs() in ((1, 2) if coincides else (expected,))


@pytest.mark.skipif(not HAS_COMPILER, reason="torch compiles with a C++ compiler")
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_compiled_code_computes_the_same(bf16: bool) -> None:
    """A convolution, and the scale that torch 2.7 loses where it stands as ``torch.add``'s alpha."""
    changes: dict[str, Any] = VARIANTS["no biases"] | {"residual_scale": 0.5, "short_convolution": 3, "qk_norm": True}
    plain, compiled = (make_model(dataclasses.replace(SMALL, **changes)) for _ in range(2))
    parallelize(compiled, compile_arguments={"fullgraph": True})
    for number, lengths in enumerate(BATCHES[:4]):
        with torch._dynamo.config.patch(error_on_recompile=number >= 2):
            found = train_on(compiled, lengths, "packed", bf16)
        for one, other in zip(found, train_on(plain, lengths, "packed", bf16), strict=True):
            size = max(1.0, float(other.abs().max()))
            close(one / size, other / size, 3e-2 if bf16 else 1e-5)


def test_no_combination_of_graphs_is_too_many() -> None:
    """With ``fullgraph`` torch says that it gives up; without, it would run the block uncompiled."""
    model = make_model(dataclasses.replace(SMALL, mixed=True, value_residual=True))
    trained = ESM2ComposerModel(model).train()
    with torch._dynamo.config.patch(recompile_limit=8):  # and its default again at the end
        parallelize(model, compile_arguments={"backend": "aot_eager", "fullgraph": True})
        for causal, form, learns in itertools.product((False, True), ("packed", "padded"), (True, False)):
            batch = make_batch((17, 40, 30))[form] | {"causal": causal}
            with torch.set_grad_enabled(learns):
                assert trained.loss(trained(batch), batch).isfinite()
    assert compiled_graphs() > 8


def test_auto_compiles_on_gpus_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/gcc")
    assert compile_arguments(AUTO, "gpu") == {}
    assert compile_arguments(AUTO, "cpu") is None
    assert compile_arguments(None, "gpu") is None
    assert compile_arguments({"mode": "max-autotune"}, "cpu") == {"mode": "max-autotune"}
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert compile_arguments(AUTO, "gpu") is None
    assert compile_arguments({}, "gpu") == {}


def test_a_copy_of_the_model_calls_its_own_blocks() -> None:
    model = make_model(SMALL)
    parallelize(model, activation_checkpointing=True)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.blocks.parameters():
            parameter.zero_()
    assert not torch.equal(train_on(model, (17, 40), "packed")[0], train_on(other, (17, 40), "packed")[0])


def test_recomputation_keeps_the_inputs_of_blocks_alone() -> None:
    config = ESM2Config(4, 32, 4, 128)
    kept = []
    for recomputes in (False, True):
        model, saved = make_model(config), 0
        parallelize(model, activation_checkpointing=recomputes)
        batch = make_batch()["packed"]

        def note(x: torch.Tensor) -> torch.Tensor:
            nonlocal saved
            saved += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            ESM2ComposerModel(model)(batch)
        kept.append(saved)
    assert kept[1] < kept[0] / 5
