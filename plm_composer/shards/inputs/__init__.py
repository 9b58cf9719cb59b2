"""FASTA, tables and clusters to blocks of cleaned, split records."""
