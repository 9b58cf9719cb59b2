"""Optimizers (``optimizers.py``) and learning-rate schedules (``schedulers.py``), and our own, a file each."""
