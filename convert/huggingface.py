"""A Hugging Face dataset to MDS shards: ``python convert/huggingface.py taylor-joren/uniref50 --out data/uniref50``."""

from plm_composer.errors import run_command
from plm_composer.shards.command import convert_huggingface_command

if __name__ == "__main__":
    run_command(convert_huggingface_command)
