"""Reads FASTA, tables and clusters, and makes blocks of cleaned, split records."""
