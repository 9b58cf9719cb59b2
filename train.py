"""Trains a protein language model: ``composer train.py yamls/esm2_small.yaml [recipe=NAME] [key=value ...]``."""

from plm_composer.errors import run_command
from plm_composer.run.command import main

if __name__ == "__main__":
    run_command(main)
