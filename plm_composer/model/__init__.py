"""ESM2 in one readable file, its attention, its Composer wrapper, and weight conversion."""
