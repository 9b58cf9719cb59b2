"""Composer's algorithms: each is accepted, or refused for a reason that holds."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from composer import Algorithm, algorithms
from composer.core import Event, State
from composer.devices import DeviceCPU
from composer.loggers import Logger

from plm_composer.algorithms import ALGORITHMS, REFUSED_ALGORITHMS
from plm_composer.errors import UserError
from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.run.parts import make_parts
from tests.algorithms.small_training import config_of
from tests.model.small_models import make_batch

OF_COMPOSER = {
    kind.__module__.split(".")[2]: kind
    for kind in (getattr(algorithms, name) for name in algorithms.__all__)
    if isinstance(kind, type) and issubclass(kind, Algorithm) and kind is not algorithms.NoOpModel
}
"""By the folders that Composer has for them."""
CHANGE_THE_MODEL = {
    "alibi": {"max_sequence_length": 64}, "blurpool": {}, "channels_last": {}, "ghost_batchnorm": {},
    "low_precision_groupnorm": {}, "squeeze_excite": {}, "weight_standardization": {},
}  # fmt: skip
CHANGE_PAIRS = {
    "colout": {}, "cutmix": {}, "cutout": {}, "label_smoothing": {}, "mixup": {}, "progressive_resizing": {},
    "selective_backprop": {"start": 0.0},
}  # fmt: skip


def state_of(model: ESM2ComposerModel) -> State:
    state = State(
        model=model, rank_zero_seed=0, run_name="x", device=DeviceCPU(),
        optimizers=[torch.optim.SGD(model.parameters(), lr=0.1)], max_duration="4ba",
    )  # fmt: skip
    state.batch = make_batch()["packed"]
    return state


def model_of(width: int = 32) -> ESM2ComposerModel:
    return ESM2ComposerModel(ESM2(ESM2Config(1, width, 2, 2 * width)))


def test_every_one_is_accepted_or_refused() -> None:
    assert len(OF_COMPOSER) > 20
    assert set(OF_COMPOSER) <= {*ALGORITHMS, *REFUSED_ALGORITHMS}


@pytest.mark.parametrize("name", CHANGE_THE_MODEL)
@pytest.mark.filterwarnings("ignore")
def test_it_finds_nothing_to_change(name: str) -> None:
    model = model_of()
    state, before = state_of(model), [type(module) for module in model.modules()]
    algorithm = OF_COMPOSER[name](**CHANGE_THE_MODEL[name])
    assert algorithm.match(Event.INIT, state)
    algorithm.apply(Event.INIT, state, Logger(state))
    assert [type(module) for module in model.modules()] == before


@pytest.mark.parametrize("name", CHANGE_PAIRS)
@pytest.mark.filterwarnings("ignore")
def test_it_needs_batches_that_are_pairs(name: str) -> None:
    state = state_of(model_of())
    algorithm = OF_COMPOSER[name](**CHANGE_PAIRS[name])
    with pytest.raises((KeyError, TypeError, AttributeError, ValueError, RuntimeError)):
        for event in (Event.AFTER_DATALOADER, Event.BEFORE_FORWARD, Event.BEFORE_LOSS):
            algorithm.apply(event, state, Logger(state))


def test_factorize_makes_layers_that_no_config_describes() -> None:
    model = model_of(width=512)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        OF_COMPOSER["factorize"]().apply(Event.INIT, state_of(model), Logger(state_of(model)))
    with pytest.raises(RuntimeError, match="Missing key"):
        ESM2(model.model.config).load_state_dict(model.model.state_dict())


def test_there_is_no_dropout_to_replace() -> None:
    assert not any(isinstance(module, torch.nn.Dropout) for module in model_of().modules())


@pytest.mark.parametrize("name", REFUSED_ALGORITHMS)
def test_it_is_refused_with_what_to_use_instead(name: str, small_set: Path) -> None:
    with pytest.raises(
        UserError, match=re.escape(f"algorithms.{name}: {name!r} is refused: {REFUSED_ALGORITHMS[name]}")
    ):
        make_parts(config_of(small_set / "shards", f"algorithms.{name}={{}}"))
    for section, key, value in re.findall(
        r"(?:set|use) (model|algorithms)\.(\w+)(?:=(\w+))?", REFUSED_ALGORITHMS[name]
    ):
        if section == "algorithms":
            assert key in ALGORITHMS
            continue
        parts = make_parts(config_of(small_set / "shards", f"model.{key}={value or 0.1}"))
        wanted: Any = value or 0.1
        assert getattr(parts.model, key) == wanted
