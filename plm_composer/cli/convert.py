"""``plm convert`` and ``plm verify``: from proteins to shards, and whether shards are whole."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from plm_composer.cli.options import AsJson
from plm_composer.errors import UserError

_PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
convert = typer.Typer(
    no_args_is_help=True,
    help="Convert proteins to MDS shards.",
    epilog="Example: plm convert fasta uniref50.fasta.gz --out data/uniref50",
)


@convert.command("fasta", context_settings=_PASSED_ON)
def convert_fasta(context: typer.Context) -> None:
    """FASTA files, plain or compressed."""
    from plm_composer.shards.command import convert_fasta_command

    convert_fasta_command(context.args, "plm convert fasta")


@convert.command("hf", context_settings=_PASSED_ON)
def convert_huggingface(context: typer.Context) -> None:
    """A Hugging Face dataset, or parquet, JSON, CSV or TSV files."""
    from plm_composer.shards.command import convert_huggingface_command

    convert_huggingface_command(context.args, "plm convert hf")


@convert.command("spark", context_settings=_PASSED_ON)
def convert_spark(context: typer.Context) -> None:
    """FASTA files, on a Spark cluster."""
    from plm_composer.shards.command import convert_spark_command

    convert_spark_command(context.args, "plm convert spark")


def verify(
    data: Annotated[str, typer.Argument(help="A folder that convert/ wrote, or a remote one.")],
    as_json: AsJson = False,
) -> None:
    """Check every shard of a dataset against its manifest."""
    from plm_composer.shards.verification import verify
    from plm_composer.terminal.progress import ProgressBar

    with ProgressBar(unit=" shards", desc="verify") as bar:
        found = verify(data, lambda _: bar.update())
    if as_json:
        print(json.dumps(found.to_mapping()))
    for damage in found.damaged:
        print(f"{data.rstrip('/')}/{damage.file}: {damage.problem}", file=sys.stderr)
    if found.damaged:
        raise UserError(f"{data}: {len(found.damaged)} files are not what was written; copy or convert them again")
    if not as_json:
        print(f"{data}: {found.shards:,} shards, {found.proteins:,} proteins, as written; digest {found.digest}")
