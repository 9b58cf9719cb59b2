"""Trains from an installed package: ``python -m plm_composer.run NAME``, ``composer -n 8 -m plm_composer.run NAME``."""

from plm_composer.errors import run_command
from plm_composer.run.command import main

if __name__ == "__main__":
    run_command(main)
