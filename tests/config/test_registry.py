"""Building components from names."""

import inspect
import typing

import pytest
import torch
from composer import algorithms, callbacks
from torch.optim.optimizer import required

from plm_composer.algorithms import ALGORITHMS, REFUSED_ALGORITHMS
from plm_composer.callbacks import CALLBACKS
from plm_composer.config.argument_types import describe, fits, hints_of
from plm_composer.config.registry import build, check_arguments, look_up
from plm_composer.errors import UserError
from plm_composer.hardware.sharding import ShardingConfig
from plm_composer.loggers import LOGGERS
from plm_composer.optim import OPTIMIZERS, SCHEDULERS


class Component:
    def __init__(self, params: object, size: int, rate: float = 0.5) -> None:
        if size < 1:
            raise ValueError("size must be positive\nreally")
        self.size, self.rate, self.params = size, rate, params


def test_arguments_reach_the_class() -> None:
    made = build("thing", Component, {"size": 3}, params="mine")
    assert (made.size, made.rate, made.params) == (3, 0.5, "mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 1, "rat": 2}, "thing.rat: there is no such argument; did you mean 'rate'"),
        ({}, "thing.size: the argument is missing"),
        ({"size": 1, "params": 2}, "thing.params: there is no such argument"),
        ({"size": 0}, "thing: size must be positive$"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("thing", Component, arguments, params=None)


def test_keyword_arguments_are_let_through() -> None:
    def target(known: int = 0, **others: int) -> None: ...

    check_arguments("thing", target, {"anything": 1})
    with pytest.raises(UserError, match=r"thing\.anything: there is no such argument; choose from known"):
        check_arguments("thing", target, {"anything": 1}, only_named=True)


def test_every_algorithm_of_composer_is_accepted_or_refused_with_a_reason() -> None:
    for name in algorithms.__all__:
        target = getattr(algorithms, name)
        if isinstance(target, type) and issubclass(target, algorithms.EMA.__mro__[1]) and name != "NoOpModel":
            snake = {"SAM": "sam", "SWA": "swa", "EMA": "ema", "BlurPool": "blurpool", "CutMix": "cutmix",
                     "MixUp": "mixup", "CutOut": "cutout", "ColOut": "colout", "AugMix": "augmix",
                     "RandAugment": "randaugment", "LowPrecisionLayerNorm": "low_precision_layernorm",
                     "LowPrecisionGroupNorm": "low_precision_groupnorm",
                     "GhostBatchNorm": "ghost_batchnorm"}.get(name)  # fmt: skip
            if snake is None:
                snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
            assert snake in {**ALGORITHMS, **REFUSED_ALGORITHMS}, name


PARTS = {
    **{f"algorithms.{name}": part for name, part in ALGORITHMS.items()},
    **{f"callbacks.{name}": part for name, part in CALLBACKS.items()},
    **{f"loggers.{name}": part for name, part in LOGGERS.items()},
    **{f"optimizer.{name}": kind.target for name, kind in OPTIMIZERS.items()},
    **{f"scheduler.{name}": part for name, part in SCHEDULERS.items()},
    "fsdp_config": ShardingConfig,
    "compile_config": torch.compile,
}


@pytest.mark.parametrize("key", PARTS)
def test_every_argument_has_a_type_that_its_default_has(key: str) -> None:
    hints = hints_of(PARTS[key])
    for parameter in inspect.signature(PARTS[key]).parameters.values():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) or parameter.name == "params":
            continue
        assert parameter.name in hints
        if parameter.default not in (parameter.empty, required):
            assert fits(parameter.default, hints[parameter.name]), parameter
        assert describe(hints[parameter.name])


@pytest.mark.parametrize(
    ("value", "hint", "fit"),
    [
        (1, float, True), (1.5, int, False), (True, float, False), (True, int, False), (True, bool, True),
        (True, bool | int, True), ("1e-3", float, False), ([0.9, 0.95], tuple[float, float], True),
        ([0.9], tuple[float, float], False), ([[1, 2, 3]], tuple[tuple[float, float, float], ...], True),
        (["a", 1], list[str], False), ([True], list[float], False), ({"a": 1}, dict[str, str], False),
        ({"a": True}, dict[str, typing.Any], True), (None, float | None, True), (None, float, False),
        ("last", typing.Callable | str, True), ("x", typing.Literal["a", "b"], False), (2, float | torch.Tensor, True),
    ],
    ids=str,
)  # fmt: skip
def test_what_fits(value: object, hint: object, fit: bool) -> None:
    assert fits(value, hint) == fit


def test_refusals_say_why() -> None:
    with pytest.raises(UserError, match="position_embedding_type=alibi"):
        look_up("algorithms.alibi", "alibi", ALGORITHMS, REFUSED_ALGORITHMS)


def test_callbacks_are_composers() -> None:
    assert CALLBACKS["speed_monitor"] is callbacks.SpeedMonitor
