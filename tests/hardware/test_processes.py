"""Numbers that processes agree on."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch.distributed as dist

from plm_composer.hardware.processes import LostProcess, explaining_lost_processes, first_ones, greatest_of_all
from tests.gloo import spawn_on_cpus


def work(rank: int, folder: Path) -> None:
    (folder / str(rank)).write_text(f"{greatest_of_all(5 + rank)} {first_ones(5 + rank)}")
    dist.barrier()
    os._exit(0)  # torch 2.7 may wait for ever for the threads of a group that it destroys


def test_two_processes_agree(tmp_path: Path) -> None:
    spawn_on_cpus(work, tmp_path)
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["6 5", "6 5"]


def leave(rank: int, folder: Path) -> None:
    greatest_of_all(0)
    if rank == 1:
        os._exit(0)
    try:
        with explaining_lost_processes():
            while True:
                greatest_of_all(0)
    except LostProcess as error:
        (folder / "error").write_text(str(error))
        os._exit(0)  # as a command does


def test_a_process_that_has_ended_is_one_line_in_the_others(tmp_path: Path) -> None:
    spawn_on_cpus(leave, tmp_path)
    error = (tmp_path / "error").read_text()
    # Which call of gloo notices first, a read or a write, is chance.
    assert re.fullmatch(
        r"another process of this run has ended, and its own error says why \(.*"
        r"(Connection closed by peer|Connection reset by peer|Broken pipe).*\)",
        error,
    )
    assert LostProcess.code == 1
    assert LostProcess.ends_at_once


def test_errors_of_one_process_stay(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mine"), explaining_lost_processes():
        raise RuntimeError("mine")


def test_one_process_has_its_own() -> None:
    assert (greatest_of_all(3), first_ones(3)) == (3, 3)
