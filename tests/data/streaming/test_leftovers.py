"""Shared memory of killed runs goes, that of living ones stays."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from plm_composer.data.streaming.leftovers import remove_leftovers

BLOCKS = Path("/dev/shm")
HOLDER = """
import sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
block = SharedMemory(sys.argv[1], create=True, size=64)
resource_tracker.unregister(block._name, "shared_memory")  # which would clean up after a kill, if it outlives it
print("ready", flush=True)
sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(not BLOCKS.is_dir(), reason="only Linux shows who uses a block")


def test_blocks_of_the_dead_go_and_those_of_the_living_stay() -> None:
    name = f"{900_000 + os.getpid() % 90_000:06d}_locals"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"ready\n"
    remove_leftovers()
    assert (BLOCKS / name).exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert name[:6] in remove_leftovers()
    assert not (BLOCKS / name).exists()


def test_other_files_are_not_touched() -> None:
    other = BLOCKS / f"plm_composer_test_{os.getpid()}"
    other.write_text("x")
    remove_leftovers()
    assert other.exists()
    other.unlink()
