"""``plm train``."""

from __future__ import annotations

from typing import Annotated

import typer


def train(
    run: Annotated[str, typer.Argument(help="A YAML, or the name of a bundled one, such as esm2_small.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, and recipe=NAME.")] = None,
) -> None:
    """Train a model; `composer -n 8 -m plm_composer.run RUN ...` does it on several processes."""
    from plm_composer.run.command import main as run_training

    raise typer.Exit(run_training([run, *(overrides or [])]))
