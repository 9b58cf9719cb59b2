"""Which class the arguments of a section of the config belong to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from streaming import Stream

from plm_composer.algorithms import ALGORITHMS
from plm_composer.callbacks import CALLBACKS
from plm_composer.hardware.sharding import ShardingConfig
from plm_composer.loggers import LOGGERS
from plm_composer.model.config import ESM2Config
from plm_composer.optim import OPTIMIZERS, SCHEDULERS

Path = tuple[str, ...]


@dataclasses.dataclass
class _Names:
    """Keys of a section beside its class's arguments."""

    name: str
    pretrained: str
    stack_to: int


_NAMED_INSIDE: Mapping[str, Mapping[str, Any]] = {
    "optimizer": {name: kind.target for name, kind in OPTIMIZERS.items()},
    "scheduler": SCHEDULERS,
}
_NAMED_BY_KEY: Mapping[str, Mapping[str, Any]] = {
    "algorithms": ALGORITHMS,
    "callbacks": CALLBACKS,
    "loggers": LOGGERS,
}
_ALWAYS: Mapping[str, Any] = {"model": ESM2Config, "fsdp_config": ShardingConfig, "compile_config": torch.compile}


def find_part(config: DictConfig, path: Path) -> tuple[Any, Path]:
    """Finds whose argument a key is.

    Args:
        config: The merged config.
        path: Keys from the outermost to a value, below a section of named parts.

    Returns:
        The class or function, and the path from its argument on; None where the section names nothing that is known.
    """
    section, *rest = path
    if section in ("optimizer", "scheduler", "model") and rest[0] in _Names.__annotations__:
        return _Names, tuple(rest)
    if section in _NAMED_INSIDE:
        return _NAMED_INSIDE[section].get(str(config[section].get("name"))), tuple(rest)
    if section in _NAMED_BY_KEY:
        return _NAMED_BY_KEY[section].get(rest[0]), tuple(rest[1:])
    if path[:2] == ("data", "streams"):
        return Stream, path[3:]
    return _ALWAYS.get(section), tuple(rest)
