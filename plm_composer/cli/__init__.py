"""``plm``, the command: a module for each subcommand. Results go to stdout, progress and warnings to stderr.

Each command imports what it needs itself: torch and Composer take seconds, and ``plm --help`` needs neither.
"""

from __future__ import annotations

import typer

from plm_composer.cli.ablate import ablate
from plm_composer.cli.configs import config, init, recipes
from plm_composer.cli.contacts import contacts
from plm_composer.cli.convert import convert, verify
from plm_composer.cli.embed import embed
from plm_composer.cli.evaluate import evaluate
from plm_composer.cli.export import export
from plm_composer.cli.perplexity import perplexity
from plm_composer.cli.probe import probe
from plm_composer.cli.report import report
from plm_composer.cli.score import score
from plm_composer.cli.train import train
from plm_composer.errors import run_command

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train, evaluate and use protein language models.",
)
app.add_typer(convert, name="convert")
for command in (
    train, init, config, recipes, verify, evaluate, perplexity, score, contacts, probe, embed, export, report, ablate,
):  # fmt: skip
    app.command()(command)


def main() -> None:
    """Runs ``plm``."""
    run_command(lambda: app(standalone_mode=True))
