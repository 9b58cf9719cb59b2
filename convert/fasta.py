"""FASTA to MDS shards: ``python convert/fasta.py uniref50.fasta.gz --out data/uniref50``. See docs/conversion.md."""

from __future__ import annotations

import argparse
from typing import get_args

from plm_composer.errors import run_command
from plm_composer.shards.command import CommandParser, add_common_options, common_arguments, report
from plm_composer.shards.convert import convert_fasta
from plm_composer.shards.inputs.clusters import Members, Unlisted


def main() -> None:
    """Parses the command line and converts."""
    parser = CommandParser(description="Converts FASTA files to MDS shards for training.")
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
        help="what a protein that is not in the list of clusters does: stop, or count as a cluster of its own "
        "(default: error)",
    )
    parser.add_argument(
        "--cluster-members",
        choices=get_args(Members),
        default=argparse.SUPPRESS,
        help="members of a cluster as records of their own, or in one, of which training draws one member in each "
        "epoch (default: apart)",
    )
    add_common_options(parser)
    arguments = parser.parse_args()
    manifest = convert_fasta(
        arguments.inputs,
        val_inputs=arguments.val,
        clusters=arguments.clusters,
        unlisted=getattr(arguments, "unlisted", None),
        cluster_members=getattr(arguments, "cluster_members", None),
        **common_arguments(arguments),
    )
    report(manifest, arguments)


if __name__ == "__main__":
    run_command(main)
