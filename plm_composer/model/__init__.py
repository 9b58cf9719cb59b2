"""ESM2 (``esm2.py``), how it attends, its variants and costs, its Composer wrapper, and weights of others."""
