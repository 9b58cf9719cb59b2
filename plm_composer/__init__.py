"""Efficient training of protein language models on MosaicML Composer."""

__version__ = "0.1.0"
