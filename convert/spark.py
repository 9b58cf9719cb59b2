"""FASTA to MDS shards on Spark: ``spark-submit convert/spark.py part*.fasta.gz --out /shared/uniref50``."""

from plm_composer.errors import run_command
from plm_composer.shards.command import convert_spark_command

if __name__ == "__main__":
    run_command(convert_spark_command)
