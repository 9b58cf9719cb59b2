"""Deeper models from trained shallow ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from plm_composer.errors import UserError
from plm_composer.model.esm2 import ESM2
from plm_composer.model.weights.huggingface_folder import save_huggingface
from plm_composer.model.weights.pretrained import load_pretrained, pretrained_config
from plm_composer.model.weights.stacking import stack, stacked_config, stacking_order
from plm_composer.run.load import load_config
from plm_composer.run.memory import predict_memory
from plm_composer.run.parts import make_parts
from plm_composer.run.trainer import make_model as make_training_model
from tests.model.small_models import SMALL, make_model

LAYERS = SMALL.num_hidden_layers


def test_the_order_is_the_whole_stack_and_then_its_top() -> None:
    assert stacking_order(3, 6) == [0, 1, 2, 0, 1, 2]
    assert stacking_order(3, 8) == [0, 1, 2, 0, 1, 2, 1, 2]
    assert stacking_order(3, 4) == [0, 1, 2, 2]


@pytest.mark.parametrize("depth", [LAYERS + 1, 2 * LAYERS, 3 * LAYERS + 1])
def test_blocks_are_copies_and_the_rest_is_kept(depth: int) -> None:
    shallow = make_model()
    deep = ESM2(stacked_config(SMALL, depth))
    deep.load_state_dict(stack(shallow.state_dict(), SMALL, depth))
    for block, source in zip(deep.blocks, stacking_order(LAYERS, depth), strict=True):
        for name, value in shallow.blocks[source].state_dict().items():
            assert torch.equal(block.state_dict()[name], value)
    assert torch.equal(deep.embedding.weight, shallow.embedding.weight)
    known = LAYERS * SMALL.num_attention_heads
    assert torch.equal(deep.contact_head.regression.weight[:, :known], shallow.contact_head.regression.weight)
    assert not deep.contact_head.regression.weight[:, known:].any()


def test_running_the_blocks_twice_is_the_stacked_model() -> None:
    shallow = make_model()
    deep = ESM2(stacked_config(SMALL, 2 * LAYERS)).eval()
    deep.load_state_dict(stack(shallow.state_dict(), SMALL, 2 * LAYERS))
    ids = torch.randint(4, 24, (2, 9), generator=torch.Generator().manual_seed(0))
    expected = torch.nn.ModuleList([*shallow.blocks, *shallow.blocks])
    with torch.no_grad():
        actual = deep(ids)
        shallow.blocks, shallow.config = expected, deep.config
        torch.testing.assert_close(actual, shallow(ids))


def test_a_config_names_the_model_to_stack(tmp_path: Path, repository: Path, tiny: tuple[str, ...]) -> None:
    save_huggingface(make_model(), tmp_path / "run" / "export")
    yaml = repository / "yamls" / "esm2_small.yaml"
    overrides = [override for override in tiny if not override.startswith("model.")]
    for folder in (tmp_path / "run", tmp_path / "run" / "export"):
        section = f"model={{pretrained: {folder}, stack_to: {LAYERS + 1}}}"
        config = load_config(yaml, [*overrides, section])
        parts = make_parts(config)
        model = make_training_model(parts).model
        assert len(model.blocks) == LAYERS + 1
        assert model.config == pretrained_config(config.model)
        assert predict_memory(parts).memory.weights > 0
        for name, value in load_pretrained(config.model)[1].items():
            assert torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{{pretrained: {folder}, stack_to: {layers}}}", "model.stack_to is {layers}; it must be a number"),
        ("{{pretrained: {folder}, stack_to: many}}", "model.stack_to is 'many'"),
        ("{{pretrained: {folder}, stack_to: 9, hidden_size: 8}}", "leave out the other keys of model"),
        ("{{name: esm2_8m, stack_to: 9}}", "model.stack_to needs model.pretrained"),
        ("{{pretrained: nowhere, stack_to: 9}}", "nowhere is not a Hugging Face folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_stacked_is_one_line(
    tmp_path: Path, repository: Path, tiny: tuple[str, ...], section: str, message: str
) -> None:
    save_huggingface(make_model(), tmp_path)
    overrides = [override for override in tiny if not override.startswith("model.")]
    config = load_config(
        repository / "yamls" / "esm2_small.yaml",
        [*overrides, f"model={section.format(folder=tmp_path, layers=LAYERS)}"],
    )
    if section.startswith("{{name"):
        config.model.pop("initializer_range", None)
    with pytest.raises(UserError, match=message.format(layers=LAYERS)):
        make_parts(config)
