"""FASTA to MDS shards: ``python convert/fasta.py uniref50.fasta.gz --out data/uniref50``. See docs/conversion.md."""

from plm_composer.errors import run_command
from plm_composer.shards.command import convert_fasta_command

if __name__ == "__main__":
    run_command(convert_fasta_command)
