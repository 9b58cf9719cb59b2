"""Probes: how well a simple model predicts properties of proteins from a language model's frozen embeddings."""
