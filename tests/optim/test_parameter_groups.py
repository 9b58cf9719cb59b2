"""Which parameters decay."""

import torch

from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.optim.parameter_groups import parameter_groups


def test_matrices_decay_biases_and_norms_do_not() -> None:
    model = ESM2(ESM2Config(2, 32, 4, 64))
    decays, stays = parameter_groups(model, 0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decays["weight_decay"], stays["weight_decay"]) == (0.1, 0.0)
    assert {names[id(p)].rsplit(".", 1)[-1] for p in decays["params"]} == {"weight"}
    assert not any("norm" in names[id(p)] for p in decays["params"])
    assert all("norm" in names[id(p)] or names[id(p)].endswith("bias") for p in stays["params"])
    every = [id(p) for p in [*decays["params"], *stays["params"]]]
    assert sorted(every) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_an_optimizer_takes_them() -> None:
    torch.optim.AdamW(parameter_groups(ESM2(ESM2Config(1, 16, 2, 32)), 0.01), lr=1e-3)
