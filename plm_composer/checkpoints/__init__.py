"""Checkpoints: their names, writing them whole, finding the one to continue from, starting from another's."""
