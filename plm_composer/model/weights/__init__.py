"""Converts weights of other implementations, Hugging Face's and fair-esm's, to ours and back."""
