"""Embeddings of proteins: in memory, and of whole proteomes from file to file."""
