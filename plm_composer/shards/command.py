"""The converter's commands: their options, and the summary at the end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, get_args

from plm_composer.errors import EXIT_CODE, UserError, first_line
from plm_composer.shards.convert import convert_fasta, convert_huggingface
from plm_composer.shards.inputs.cleaning import Rules
from plm_composer.shards.inputs.clusters import Members, Unlisted
from plm_composer.shards.output.manifest import Manifest
from plm_composer.shards.output.settings import DEFAULT_VAL_FRACTION, Settings


def convert_fasta_command(words: Sequence[str] | None = None, program: str | None = None) -> None:
    """Converts FASTA files: ``python convert/fasta.py``, ``plm convert fasta``.

    Args:
        words: The command line; None for the process's own.
        program: Name of the command in ``--help``; None for the script's name.
    """
    arguments = fasta_parser(program).parse_args(words)
    manifest = convert_fasta(
        arguments.inputs,
        val_inputs=arguments.val,
        clusters=arguments.clusters,
        unlisted=getattr(arguments, "unlisted", None),
        cluster_members=getattr(arguments, "cluster_members", None),
        **common_arguments(arguments),
    )
    report(manifest, arguments)


def fasta_parser(program: str | None = None) -> CommandParser:
    """Makes the parser of ``convert_fasta_command``.

    Args:
        program: Name of the command in ``--help``.
    """
    parser = CommandParser(
        "uniref50.fasta.gz --out data/uniref50",
        prog=program,
        description="Converts FASTA files to MDS shards for training.",
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="FASTA file, plain or gzip; - for standard input")
    parser.add_argument("--val", nargs="+", default=[], metavar="FILE", help="FASTA files that are the validation set")
    parser.add_argument(
        "--clusters",
        metavar="TSV",
        help="clusters (representative, tab, member, as MMseqs2 writes them) that stay whole on one side of the split",
    )
    parser.add_argument(
        "--unlisted",
        choices=get_args(Unlisted),
        default=argparse.SUPPRESS,
        help="on a protein that is not in the list of clusters: stop, or make it a cluster of its own (default: error)",
    )
    parser.add_argument(
        "--cluster-members",
        choices=get_args(Members),
        default=argparse.SUPPRESS,
        help="store each member of a cluster as a record, or the cluster as one record, of which training draws one "
        "member in each epoch (default: apart)",
    )
    add_common_options(parser)
    return parser


def convert_huggingface_command(words: Sequence[str] | None = None, program: str | None = None) -> None:
    """Converts a Hugging Face dataset: ``python convert/huggingface.py``, ``plm convert hf``.

    Args:
        words: The command line; None for the process's own.
        program: Name of the command in ``--help``; None for the script's name.
    """
    arguments = huggingface_parser(program).parse_args(words)
    manifest = convert_huggingface(
        arguments.paths,
        column=arguments.column,
        split=arguments.split,
        val_split=arguments.val_split,
        config=arguments.config,
        revision=arguments.revision,
        streaming=arguments.streaming,
        **common_arguments(arguments),
    )
    report(manifest, arguments)


def huggingface_parser(program: str | None = None) -> CommandParser:
    """Makes the parser of ``convert_huggingface_command``.

    Args:
        program: Name of the command in ``--help``.
    """
    parser = CommandParser(
        "proteins.parquet --column sequence --out data/proteins",
        prog=program,
        description="Converts a dataset of Hugging Face `datasets` to MDS shards for training.",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="DATASET",
        help="name on the hub, a folder (of save_to_disk or of data files), or parquet, JSON, CSV or TSV files",
    )
    parser.add_argument(
        "--column", help="column of sequences, a.b for a field b in a column a; guessed if only one has a usual name"
    )
    parser.add_argument("--split", default="train", help="split to train on (default: %(default)s)")
    parser.add_argument(
        "--val-split",
        help="split that is the validation set (default: the dataset's own, unless --val-fraction is given)",
    )
    parser.add_argument("--config", help="configuration (subset) of the dataset")
    parser.add_argument("--revision", help="branch, tag or commit of the dataset on the hub")
    parser.add_argument(
        "--streaming", action="store_true", help="read a dataset of the hub row by row instead of downloading it first"
    )
    add_common_options(parser)
    return parser


def convert_spark_command(words: Sequence[str] | None = None, program: str | None = None) -> None:
    """Converts FASTA files on a Spark cluster: ``spark-submit convert/spark.py``, ``plm convert spark``.

    Args:
        words: The command line; None for the process's own.
        program: Name of the command in ``--help``; None for the script's name.
    """
    arguments = spark_parser(program).parse_args(words)
    from plm_composer.shards.spark import convert_fasta_on_spark

    options = output_arguments(arguments)
    session = _start_spark()
    try:
        manifest = convert_fasta_on_spark(session, arguments.inputs, val_inputs=arguments.val, **options)
    finally:
        session.stop()
    report(manifest, arguments)


def spark_parser(program: str | None = None) -> CommandParser:
    """Makes the parser of ``convert_spark_command``.

    Args:
        program: Name of the command in ``--help``.
    """
    parser = CommandParser(
        "uniref50.fasta.gz --out data/uniref50",
        prog=program,
        description="Converts FASTA files to MDS shards for training, on a Spark cluster.",
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="FASTA file, plain or gzip, that all nodes see")
    parser.add_argument("--val", nargs="+", default=[], metavar="FILE", help="FASTA files that are the validation set")
    add_output_options(parser)
    return parser


def _start_spark() -> Any:
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError:
        raise UserError("PySpark is not installed; pip install 'plm-composer[spark]'") from None
    try:
        session = SparkSession.builder.appName("plm-composer").getOrCreate()
    except PySparkException as error:
        raise UserError(f"Spark does not start: {first_line(error)}; is there a Java runtime (8, 11 or 17)?") from error
    context = session.sparkContext
    context.setLogLevel("ERROR")
    if context.master.startswith("local"):
        context.pythonExec = sys.executable  # not the `python3` of the path, which may lack the package
    return session


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr, and whose options cannot be abbreviated.

    Args:
        example: Words that its help shows behind the command's name.
        **options: Options of ``argparse``.
    """

    def __init__(self, example: str, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self.epilog = f"Example: {self.prog} {example}"

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit code 2."""
        self.exit(EXIT_CODE, f"error: {message} (see --help)\n")


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that do not depend on the kind of source."""
    add_output_options(parser)
    parser.add_argument(
        "--processes",
        type=int,
        default=argparse.SUPPRESS,
        help="shards written at once; the output does not depend on it (default: one for each core, 16 at most)",
    )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options for the output and its report."""
    rules, settings = Rules(), Settings()
    parser.add_argument("--out", required=True, help="folder or URL (s3://bucket/folder) of the dataset")
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=argparse.SUPPRESS,
        help="share of the proteins for validation, chosen by hash of the sequence "
        f"(default: {DEFAULT_VAL_FRACTION}, or 0 if the source has its own validation set)",
    )
    parser.add_argument(
        "--min-length",
        type=int,
        default=rules.min_length,
        help="drop proteins of fewer residues (default: %(default)s)",
    )
    parser.add_argument("--max-length", type=int, default=rules.max_length, help="drop proteins of more residues")
    parser.add_argument(
        "--max-unknown",
        type=float,
        default=rules.max_unknown,
        help="drop proteins with a larger share of letters other than the 20 standard residues (default: %(default)s)",
    )
    parser.add_argument(
        "--invalid",
        choices=("error", "drop"),
        default=rules.invalid,
        help="on a character in a sequence that is not a letter: stop, or drop the record (default: %(default)s)",
    )
    parser.add_argument("--deduplicate", action="store_true", help="drop exact repeats of a protein")
    parser.add_argument("--compression", default=settings.compression, help="zstd:LEVEL or none (default: %(default)s)")
    parser.add_argument(
        "--shard-size",
        type=float,
        default=settings.shard_size,
        help="MiB in a shard, uncompressed (default: %(default)s)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the dataset at --out once the new one is complete"
    )
    parser.add_argument("--json", action="store_true", help="print the manifest on stdout")


def common_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """Converts the options of ``add_common_options`` to arguments of the conversion."""
    return {**output_arguments(arguments), "processes": getattr(arguments, "processes", None)}


def output_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """Converts the options of ``add_output_options`` to arguments of the conversion."""
    return {
        "out": arguments.out,
        "val_fraction": getattr(arguments, "val_fraction", None),
        "settings": Settings(
            rules=Rules(arguments.min_length, arguments.max_length, arguments.max_unknown, arguments.invalid),
            deduplicate=arguments.deduplicate,
            compression=arguments.compression,
            shard_size=arguments.shard_size,
        ),
        "overwrite": arguments.overwrite,
    }


def report(manifest: Manifest, arguments: argparse.Namespace) -> None:
    """Prints a summary on stderr and, with ``--json``, the manifest on stdout."""
    for name, split in manifest.splits.items():
        clusters = "" if split.clusters is None else f" in {split.clusters:,} clusters"
        print(
            f"{name}: {split.proteins:,} proteins{clusters}, {split.residues:,} residues, "
            f"lengths {split.min_length:,} to {split.max_length:,} (mean {split.mean_length:,.0f}), {split.shards:,} "
            f"shard{'s' if split.shards > 1 else ''}, "
            f"{split.bytes / 1e6:,.1f} MB",
            file=sys.stderr,
        )
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in manifest.dropped.items())
    print(f"dropped: {dropped or 'none'}", file=sys.stderr)
    print(f"written to {arguments.out}", file=sys.stderr)
    if arguments.json:
        sys.stdout.write(manifest.to_json())
