"""``plm``, the command: a module for each subcommand. Results go to stdout, progress and warnings to stderr.

Each command imports what it needs itself: torch and Composer take seconds, and ``plm --help`` needs neither.
"""

from __future__ import annotations

from collections.abc import Callable

import typer

from plm_composer.cli.ablate import ablate
from plm_composer.cli.configs import config, init, recipes
from plm_composer.cli.contacts import contacts
from plm_composer.cli.convert import convert, verify
from plm_composer.cli.doctor import doctor
from plm_composer.cli.embed import embed
from plm_composer.cli.evaluate import evaluate
from plm_composer.cli.export import export
from plm_composer.cli.perplexity import perplexity
from plm_composer.cli.probe import probe
from plm_composer.cli.report import report
from plm_composer.cli.sample import sample
from plm_composer.cli.score import score
from plm_composer.cli.train import train
from plm_composer.errors import run_command

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train, evaluate and use protein language models.",
    epilog="Example: plm train esm2_small",
)
COMMANDS: dict[str, dict[Callable[..., None], str]] = {
    "Train": {
        train: "plm train esm2_small recipe=fast max_duration=100ba",
        config: "plm config esm2_small recipe=fast",
        recipes: "plm recipes",
        init: "plm init my_study",
        report: "plm report runs/esm2_small --out report.html",
        ablate: "plm ablate study.yaml --seeds 1,2,3",
    },
    "Data": {
        verify: "plm verify data/uniref50",
    },
    "Evaluate": {
        evaluate: "plm evaluate runs/esm2_small --data proteins.fasta",
        perplexity: "plm perplexity runs/esm2_small proteins.fasta --out perplexities.csv",
        score: "plm score runs/esm2_small BLAT_ECOLX.csv --out scores.csv",
        contacts: "plm contacts runs/esm2_small proteins.fasta --out contacts.npz",
        probe: "plm probe runs/esm2_small stability.csv --target stability",
    },
    "Use": {
        embed: "plm embed runs/esm2_small proteins.fasta --out embeddings.npz",
        export: "plm export runs/esm2_small model",
        sample: "plm sample runs/esm2_small --count 10 --out samples.fasta",
    },
    "This machine": {
        doctor: "plm doctor",
    },
}
"""Commands by panel of ``plm --help``, each with an example. A line of a terminal has 80 columns."""

for panel, commands in COMMANDS.items():
    if panel == "Data":
        app.add_typer(convert, name="convert", rich_help_panel=panel)
    for command, example in commands.items():
        app.command(rich_help_panel=panel, epilog=f"Example: {example}")(command)


def main() -> None:
    """Runs ``plm``."""
    run_command(lambda: app(standalone_mode=True))
