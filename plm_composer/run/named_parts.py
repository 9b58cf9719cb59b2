"""The parts that sections of a YAML may name: ours, and those that users register."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig
from streaming import Stream

from plm_composer.algorithms import ALGORITHMS
from plm_composer.callbacks import CALLBACKS
from plm_composer.config.argument_types import hints_of
from plm_composer.config.own_code import load_code
from plm_composer.config.registry import Registry, look_up
from plm_composer.hardware.sharding import ShardingConfig
from plm_composer.loggers import LOGGERS
from plm_composer.model import registry as _models  # noqa: F401 - fills Registry.of
from plm_composer.model.config import ESM2Config
from plm_composer.optim.optimizers import OPTIMIZERS
from plm_composer.optim.schedulers import SCHEDULERS

Path = tuple[str, ...]
T = TypeVar("T")


@dataclasses.dataclass
class _Names:
    """Keys of a section that are not arguments of its class."""

    name: str
    pretrained: str
    stack_to: int


_NAMED_BY_KEY = {"algorithms": ALGORITHMS, "callbacks": CALLBACKS, "loggers": LOGGERS}
_ALWAYS: Mapping[str, Any] = {"model": ESM2Config, "fsdp_config": ShardingConfig, "compile_config": torch.compile}


def register(section: str, name: str) -> Callable[[T], T]:
    """Gives a class in a file of ``code_paths`` a name that YAMLs can use. It is used as a decorator.

    Args:
        section: ``algorithms``, ``callbacks``, ``loggers``, ``models``, ``optimizers`` or ``schedulers``.
        name: The name in YAMLs.

    Returns:
        A decorator that returns the class unchanged. It takes a subclass of Composer's ``Algorithm``, ``Callback``,
        ``LoggerDestination`` or ``ComposerScheduler``, of torch's ``Optimizer``, or of ``ESM2`` with its config as
        ``preset``. For ``models`` it also takes an ``ESM2Config``, and for ``optimizers`` an ``OptimizerKind``.

    Raises:
        UserError: There is no such section, the name is taken, or the class is of another kind.
    """

    def add(part: T) -> T:
        look_up("register", section, Registry.of).add(name, part)
        return part

    return add


def hint_of(config: DictConfig, path: Path) -> tuple[Any, Path]:
    """Finds the annotation of an argument that a YAML gives to a named part, after running the config's ``code_paths``.

    Args:
        config: The merged config.
        path: Keys and list indices that lead from the top of the config to a value in a section of named parts.

    Returns:
        The annotation of the argument, and the rest of the path below it; (None, ()) if the section names no known
        part.
    """
    load_code(config.code_paths)
    target, argument = _find_part(config, path)
    return (hints_of(target).get(argument[0]), argument[1:]) if target and argument else (None, ())


def _find_part(config: DictConfig, path: Path) -> tuple[Any, Path]:
    """The class or function that takes the value at a path, and the path from its argument on."""
    section, *rest = path
    if section in ("optimizer", "scheduler", "model") and rest[0] in _Names.__annotations__:
        return _Names, tuple(rest)
    name = str(config[section].get("name")) if section in ("optimizer", "scheduler") else ""
    if section == "optimizer":
        return (OPTIMIZERS[name].target if name in OPTIMIZERS else None), tuple(rest)
    if section == "scheduler":
        return SCHEDULERS.get(name), tuple(rest)
    if section in _NAMED_BY_KEY:
        return _NAMED_BY_KEY[section].get(rest[0]), tuple(rest[1:])
    if path[:2] == ("data", "streams"):
        return Stream, path[3:]
    return _ALWAYS.get(section), tuple(rest)
