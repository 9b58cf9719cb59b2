"""Checkpoints: their names, safe writing, finding one to resume from, and starting from another run's."""
