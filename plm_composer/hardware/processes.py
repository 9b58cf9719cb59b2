"""Agreement between the processes of a run over the hosts, so that no process waits for a GPU."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import os
from collections.abc import Iterator

import torch
from torch import distributed

from plm_composer.errors import UserError, first_line

_LONGEST_WAIT = datetime.timedelta(days=30)
"""A process that ends breaks its connections at once; one that still works may take days longer than another."""

_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
"""What gloo and NCCL say of a process that has ended."""


def greatest_of_all(value: int) -> int:
    """Finds the greatest number of all processes; all must call it together.

    Args:
        value: This process's number.
    """
    if not _are_several():
        return value
    number = torch.tensor(value)
    distributed.all_reduce(number, distributed.ReduceOp.MAX, group=_hosts())
    return int(number)


def first_ones(value: int) -> int:
    """Broadcasts the first process's number; all processes must call it together.

    Args:
        value: This process's number; only the first one's counts.
    """
    if not _are_several():
        return value
    number = torch.tensor(value)
    distributed.broadcast(number, 0, group=_hosts())
    return int(number)


class LostProcess(UserError):
    """Another process of the run has ended. Not the user's mistake here: a scheduler may start the run again."""

    code = 1
    # Threads of gloo that wait for the other process abort an interpreter that ends, or keep it from ending.
    ends_at_once = True


@contextlib.contextmanager
def explaining_lost_processes() -> Iterator[None]:
    """Makes one line of what gloo and NCCL raise in a process because another one of the run has ended.

    Raises:
        LostProcess: Another process has closed its connection.
    """
    try:
        yield
    except RuntimeError as error:
        if not _are_several() or not any(text in str(error) for text in _LOST):
            raise
        reason = first_line(error).rpartition("] ")[2]
        raise LostProcess(f"another process of this run has ended, and its own error says why ({reason})") from error


def _are_several() -> bool:
    return distributed.is_initialized() and distributed.get_world_size() > 1


@functools.cache
def _hosts() -> distributed.ProcessGroup | None:
    """A gloo group of all processes; None, the default group, if its backend is gloo already."""
    return None if distributed.get_backend() == "gloo" else distributed.new_group(backend="gloo")


@dataclasses.dataclass(frozen=True)
class Team:
    """Processes that share work and need no gradients of each other; by default one alone.

    Args:
        rank: Number of this process, from 0.
        size: Number of processes.
        local_rank: Number of this process on its machine.
        local_size: Number of processes on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    def wait(self) -> None:
        """Waits until all processes are here."""
        if self.size > 1:
            distributed.barrier()

    def share_cores(self) -> None:
        """Gives each process of a machine its share of the cores, unless ``OMP_NUM_THREADS`` says how many."""
        if self.local_size > 1 and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, torch.get_num_threads() // self.local_size))


ALONE = Team()


@contextlib.contextmanager
def joined_team() -> Iterator[Team]:
    """Joins the processes that ``composer -n N`` or ``torchrun`` started; a process that neither did is alone."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield ALONE
        return
    numbers = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    distributed.init_process_group("gloo", timeout=_LONGEST_WAIT)
    yield Team(*numbers)
    # The command ends here. The group is not destroyed: torch 2.7 may wait for ever for its threads.
    distributed.barrier()
