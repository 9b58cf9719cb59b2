"""The command that trains: ``train.py`` of the checkout, and ``python -m plm_composer.run.command`` anywhere."""

from __future__ import annotations

import sys

from plm_composer.errors import UserError, run_command


def main() -> int:
    """Trains as the YAML, the recipes and the overrides on the command line say; returns the exit code."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise UserError("which run? composer train.py yamls/esm2_small.yaml [recipe=NAME] [key=value ...]")
    # Here, so that a mistyped command answers at once: these imports take seconds.
    from plm_composer.config.merge import load_config
    from plm_composer.run.train import train

    return train(load_config(sys.argv[1], sys.argv[2:]))


if __name__ == "__main__":
    run_command(main)
