"""A run inside a budget of wall-clock time: what was charged for what, and how many batches still fit."""
