"""Building components from names."""

import inspect
import typing

import pytest
import torch
from torch.optim.optimizer import required

from plm_composer.algorithms import ALGORITHMS
from plm_composer.callbacks import CALLBACKS
from plm_composer.config.argument_types import describe, fits, hints_of
from plm_composer.config.registry import build, check_arguments, look_up, parse_section
from plm_composer.errors import UserError
from plm_composer.hardware.sharding import ShardingConfig
from plm_composer.loggers import LOGGERS
from plm_composer.optim.optimizers import OPTIMIZERS
from plm_composer.optim.schedulers import SCHEDULERS


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


def test_names_are_looked_up_with_a_hint() -> None:
    registry = {"thing": Component, "other": dict}
    assert look_up("parts.thing", "thing", registry) is Component
    with pytest.raises(UserError, match=r"parts\.thin: there is no 'thin'; did you mean 'thing'"):
        look_up("parts.thin", "thin", registry)
    with pytest.raises(UserError, match=r"parts\.old: 'old' is refused: use thing"):
        look_up("parts.old", "old", registry, {"old": "use thing"})
    with pytest.raises(UserError, match="parts: 3 is no name; choose from thing, other"):
        look_up("parts", 3, registry)


def test_a_section_leaves_out_what_is_switched_off() -> None:
    registry = {"thing": Component, "other": dict}
    (component,) = parse_section("parts", {"thing": {"size": 2, "params": None}, "other": None}, registry)
    assert (component.key, component.name) == ("parts.thing", "thing")
    made = component.make(size=9, rate=0.25)
    assert (made.size, made.rate) == (2, 0.25)  # what the YAML says wins


def test_keyword_arguments_are_let_through() -> None:
    def target(known: int = 0, **others: int) -> None: ...

    check_arguments("thing", target, {"anything": 1})
    with pytest.raises(UserError, match=r"thing\.anything: there is no such argument; choose from known"):
        check_arguments("thing", target, {"anything": 1}, only_named=True)


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
