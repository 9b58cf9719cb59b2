"""Contacts between residues, predicted by a language model and compared with structures."""
