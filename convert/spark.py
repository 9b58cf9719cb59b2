"""FASTA to MDS shards on a Spark cluster: ``spark-submit convert/spark.py part*.fasta.gz --out /shared/uniref50``.

See docs/conversion.md.
"""

from __future__ import annotations

import sys
from typing import Any

from plm_composer.errors import UserError, run_command
from plm_composer.shards.command import CommandParser, add_output_options, output_arguments, report
from plm_composer.shards.spark import convert_fasta_on_spark


def main() -> None:
    """Parses the command line and converts."""
    parser = CommandParser(description="Converts FASTA files to MDS shards for training, on a Spark cluster.")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="FASTA file, plain or gzip, that all nodes see")
    parser.add_argument("--val", nargs="+", default=[], metavar="FILE", help="FASTA files that are the validation set")
    add_output_options(parser)
    arguments = parser.parse_args()
    options = output_arguments(arguments)
    session = _start()
    try:
        manifest = convert_fasta_on_spark(session, arguments.inputs, val_inputs=arguments.val, **options)
    finally:
        session.stop()
    report(manifest, arguments)


def _start() -> Any:
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError:
        raise UserError("PySpark is not installed; pip install 'plm-composer[spark]'") from None
    try:
        session = SparkSession.builder.appName("plm-composer").getOrCreate()
    except PySparkException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"Spark does not start: {reason}; is there a Java runtime (8, 11 or 17)?") from error
    context = session.sparkContext
    context.setLogLevel("ERROR")
    if context.master.startswith("local"):
        context.pythonExec = sys.executable  # not the `python3` of the path, which may lack the package
    return session


if __name__ == "__main__":
    run_command(main)
