"""The config of a run as a table, and in what the configs of several runs differ."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from plm_composer.config.merge import flatten
from plm_composer.config.schema import TrainConfig
from plm_composer.report.runs import Run

_DEFAULT = "default"
_NAMES = ("run_name", "run_folder", "save_folder")
"""Keys in which all runs differ, and which say nothing about training."""
_MISSING = "not set"


@dataclasses.dataclass(frozen=True)
class Setting:
    """A value of a config.

    Args:
        key: Its dotted key.
        value: As YAML would have it.
        source: Which layer set it; None if nobody recorded it.
        is_default: Whether no layer set it; where nobody recorded that, whether it is the default's value.
    """

    key: str
    value: str
    source: str | None
    is_default: bool


@dataclasses.dataclass(frozen=True)
class Difference:
    """A key that two runs have different values of.

    Args:
        key: The dotted key.
        values: The value of each run, in the order of the runs.
    """

    key: str
    values: tuple[str, ...]


def list_settings(run: Run) -> list[Setting]:
    """Lists the values of a run's config, in the order of its file."""
    defaults = flatten(dataclasses.asdict(TrainConfig()))
    settings = []
    for key, value in run.config.items():
        source = run.sources.get(key)
        is_default = source == _DEFAULT or (source is None and key in defaults and defaults[key] == value)
        settings.append(Setting(key, _show(value), source, is_default))
    return settings


def compare_settings(runs: Sequence[Run]) -> list[Difference]:
    """Lists the keys in which runs differ, but for their names and folders.

    Args:
        runs: The runs.
    """
    keys = dict.fromkeys(key for run in runs for key in run.config if key not in _NAMES)
    found = [
        Difference(key, tuple(_show(run.config[key]) if key in run.config else _MISSING for run in runs))
        for key in keys
    ]
    # An empty section is one value, and shows in the keys that another run has of it.
    return [
        difference
        for difference in found
        if len(set(difference.values)) > 1 and not any(key.startswith(f"{difference.key}.") for key in keys)
    ]


def _show(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
