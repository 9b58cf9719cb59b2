"""The command that trains: ``train.py``, ``plm train`` and ``python -m plm_composer.run``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plm_composer.config.bundled import find_yaml
from plm_composer.errors import UserError

if TYPE_CHECKING:
    from plm_composer.run.train import Outcome

_USAGE = "which run? composer train.py yamls/esm2_small.yaml [recipe=NAME] [key=value ...]"


def train_run(run: str | Path, *overrides: str) -> Outcome:
    """Trains a model: ``plm_composer.train("esm2_small", "recipe=fast", "max_duration=100ba")``.

    A budget counts from this call: the process, such as that of a notebook, may have run for hours.

    Args:
        run: A YAML, or the name of a bundled one.
        *overrides: ``key=value``, with dots for nesting; ``recipe=a,b`` names recipes.

    Returns:
        The run folder, the scores of the pinned evaluation, and whether a signal stopped the run.

    Raises:
        UserError: There is no such YAML, or something in it is wrong.
    """
    return _train(str(run), overrides, started=time.time())


def _train(run: str, overrides: Sequence[str], started: float | None) -> Outcome:
    yaml = find_yaml(run)
    # Imported here, because these imports take seconds: a mistyped command fails at once.
    from plm_composer.config.merge import find_sources
    from plm_composer.run.load import load_config
    from plm_composer.run.train import train

    return train(load_config(yaml, overrides), find_sources(yaml, overrides), started)


def main(words: Sequence[str] | None = None) -> int:
    """Trains as the YAML, the recipes and the overrides say.

    Args:
        words: A YAML, or the name of a bundled one, and overrides; None for the process's own command line.

    Returns:
        The exit code.

    Raises:
        UserError: No YAML is named, or something in it is wrong.
    """
    words = sys.argv[1:] if words is None else words
    if not words or words[0].startswith("-"):
        raise UserError(_USAGE)
    return _train(words[0], words[1:], started=None).exit_code
