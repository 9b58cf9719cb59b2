"""A Hugging Face dataset to MDS shards: ``python convert/huggingface.py taylor-joren/uniref50 --out data/uniref50``.

See docs/conversion.md.
"""

from __future__ import annotations

from plm_composer.errors import run_command
from plm_composer.shards.command import CommandParser, add_common_options, common_arguments, report
from plm_composer.shards.convert import convert_huggingface


def main() -> None:
    """Parses the command line and converts."""
    parser = CommandParser(description="Converts a dataset of Hugging Face `datasets` to MDS shards for training.")
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="DATASET",
        help="name on the hub, a folder (of save_to_disk or of data files), or parquet, JSON, CSV or TSV files",
    )
    parser.add_argument(
        "--column", help="column of sequences, a.b for a field b in a column a; guessed if only one has a usual name"
    )
    parser.add_argument("--split", default="train", help="split to train on")
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
    arguments = parser.parse_args()
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


if __name__ == "__main__":
    run_command(main)
