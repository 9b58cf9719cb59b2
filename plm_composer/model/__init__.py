"""ESM2 (``esm2.py``), its attention, variants and costs, its Composer wrapper, and weights of other implementations."""
