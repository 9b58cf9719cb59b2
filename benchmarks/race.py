"""Contenders that step in turn, each in a process of its own: one that dies leaves the others running.

A contender is pickled on its way to its process, which answers each turn with what it measured.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

OUT_OF_MEMORY = "out of memory"
Measured = dict[str, Any]
C = TypeVar("C", bound="Contender")


class Contender(Protocol):
    """What takes part."""

    @property
    def batch_size(self) -> int:
        """Proteins of a batch."""

    def with_batch_size(self: C, size: int) -> C:
        """The same with batches of another size."""

    def start(self) -> Callable[[int], Measured]:
        """Makes what steps need, in the contender's process; what it returns does the step of a turn, from 0."""


class Outcome(NamedTuple):
    """What a contender did.

    Attributes:
        steps: What it measured of each step after the warm-up; empty if it failed.
        first: What it measured of its very first step, which compiles; None if it failed.
        failure: Why it could not go on: ``OUT_OF_MEMORY``, its error, or how its process ended; None if it could.
    """

    steps: list[Measured]
    first: Measured | None = None
    failure: str | None = None


class _Runner(NamedTuple):
    process: BaseProcess
    connection: Connection


def serve(contender: Contender, connection: Connection) -> None:
    """A contender's process: sends None once it is ready, then what each turn measured, until it is sent None.

    In place of either it sends why it failed, and ends.
    """
    try:
        step = contender.start()
        connection.send(None)
        while (turn := connection.recv()) is not None:
            connection.send(step(turn))
    except torch.cuda.OutOfMemoryError:
        connection.send(OUT_OF_MEMORY)
    except Exception as error:  # of any library; the table says which, and the others go on
        traceback.print_exc()
        connection.send(describe(error))


def describe(error: Exception) -> str:
    """An error in one line that fits into a table."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]


def race(field: Sequence[Contender], warm_up: int, repeats: int) -> list[Outcome]:
    """Steps of each in turn.

    Args:
        field: The contenders.
        warm_up: Steps of each that do not count.
        repeats: Steps of each after them.
    """
    runners: list[_Runner] = []
    answers: list[Measured | str | None] = []
    first: list[Measured | None] = [None] * len(field)
    steps: list[list[Measured]] = [[] for _ in field]
    for contender in field:
        runners.append(_launch(contender))
        answers.append(_answer(runners[-1]))
    for turn in range(warm_up + repeats):
        for index, runner in enumerate(runners):
            if isinstance(answers[index], str):
                continue
            answer = answers[index] = _answer(runner, turn)
            if isinstance(answer, dict):
                if turn == 0:
                    first[index] = answer
                if turn >= warm_up:
                    steps[index].append(answer)
    for process, connection in runners:
        with contextlib.suppress(OSError):  # of one that has died
            connection.send(None)
        process.join()
    return [
        Outcome([], failure=answer) if isinstance(answer, str) else Outcome(each, beginning)
        for answer, each, beginning in zip(answers, steps, first, strict=True)
    ]


def race_alone(contender: C, warm_up: int, repeats: int) -> tuple[C, Outcome]:
    """Steps of one, with the largest batch, of those halved from its own, that its memory has room for.

    Only memory can be had by halving: any other failure is reported at once.

    Returns:
        The contender as it was measured, and what it did.
    """
    while True:
        (outcome,) = race([contender], warm_up, repeats)
        if outcome.failure != OUT_OF_MEMORY or contender.batch_size == 1:
            return contender, outcome
        contender = contender.with_batch_size(contender.batch_size // 2)


def _launch(contender: Contender) -> _Runner:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(contender, theirs), daemon=True)
    process.start()
    theirs.close()  # While this process holds that end, the death of the other one goes unnoticed.
    return _Runner(process, ours)


def _answer(runner: _Runner, turn: int | None = None) -> Measured | str | None:
    """Sends a turn, if there is one, and waits for the answer; a text says why there is none."""
    process, connection = runner
    try:
        if turn is not None:
            connection.send(turn)
        answer: Measured | str | None = connection.recv()
    except (EOFError, OSError):
        process.join()
        return f"exit code {process.exitcode}"
    return answer
