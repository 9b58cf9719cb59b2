"""Names of checkpoints, as Composer writes them."""

from __future__ import annotations

import re

FILENAME = "ep{epoch}-ba{batch}-rank{rank}.pt"
"""Composer's template for a checkpoint's file. A sharded checkpoint is a folder, named ``ep{epoch}-ba{batch}``."""
LATEST_FILENAME = "latest-rank{rank}.pt"
"""Composer's template for the link to the latest checkpoint."""
LATEST = LATEST_FILENAME.format(rank=0)
"""The link that the first process writes."""
CHECKPOINT_NAME = re.compile(r"ep(\d+)-ba(\d+)(-rank0\.pt)?")
"""A checkpoint of the first process, or a sharded one; groups 1 and 2 are its epoch and batch."""
CHECKPOINT_FILE = re.compile(r"(partial-)?(ep\d+-ba\d+(-rank\d+\.pt)?|latest-rank\d+\.pt)")
"""Anything that a run leaves in its folder of checkpoints, including partial files."""
SHARD_FILE = re.compile(r"\.metadata|__\d+_\d+\.distcp")
"""A file of a sharded checkpoint."""
