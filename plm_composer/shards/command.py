"""What the converter's commands share: options, a one-line usage error, the summary at the end."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from plm_composer.errors import EXIT_CODE
from plm_composer.shards.inputs.cleaning import Rules
from plm_composer.shards.output.manifest import Manifest
from plm_composer.shards.output.settings import DEFAULT_VAL_FRACTION, Settings


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr, and whose options cannot be abbreviated."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter, **options)

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
    """Adds the options that decide the output, and how it is reported."""
    rules, settings = Rules(), Settings()
    parser.add_argument("--out", required=True, help="folder or URL (s3://bucket/folder) of the dataset")
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=argparse.SUPPRESS,
        help="share that goes to validation, by hash of the sequence "
        f"(default: {DEFAULT_VAL_FRACTION}, or 0 if the source has a validation set of its own)",
    )
    parser.add_argument("--min-length", type=int, default=rules.min_length, help="drop proteins of fewer residues")
    parser.add_argument("--max-length", type=int, default=rules.max_length, help="drop proteins of more residues")
    parser.add_argument(
        "--max-unknown",
        type=float,
        default=rules.max_unknown,
        help="drop proteins with a larger share of letters that are not one of the 20 standard residues",
    )
    parser.add_argument(
        "--invalid",
        choices=("error", "drop"),
        default=rules.invalid,
        help="what a character in a sequence that is no letter does: stop, or drop the record",
    )
    parser.add_argument("--deduplicate", action="store_true", help="drop exact repeats of a protein")
    parser.add_argument("--compression", default=settings.compression, help="zstd:LEVEL or none")
    parser.add_argument("--shard-size", type=float, default=settings.shard_size, help="MiB of a shard, uncompressed")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the dataset at --out once the new is complete"
    )
    parser.add_argument("--json", action="store_true", help="print the manifest on stdout")


def common_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """Turns the options of ``add_common_options`` into arguments of the conversion."""
    return {**output_arguments(arguments), "processes": getattr(arguments, "processes", None)}


def output_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """Turns the options of ``add_output_options`` into arguments of the conversion."""
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
    """Says in a few lines on stderr what was written, and with ``--json`` prints the manifest on stdout."""
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
