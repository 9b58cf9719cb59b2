"""Contenders that die, fail or run out of memory, each in a process of its own."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from types import ModuleType

import pytest
import torch


@pytest.fixture
def racing(repository, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import race

    return race


def works(batch_size: int) -> None:
    pass


def dies(batch_size: int) -> None:
    os._exit(3)


def fails(batch_size: int) -> None:
    raise ValueError("a shape is wrong\nand this is more of it")


def needs_memory(batch_size: int) -> None:
    if batch_size > 1:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")


@dataclasses.dataclass(frozen=True)
class Fake:
    """Does one thing when it starts, and another in its second turn."""

    at_start: Callable[[int], None] = works
    at_turn_1: Callable[[int], None] = works
    batch_size: int = 2

    def with_batch_size(self, size: int) -> Fake:
        return dataclasses.replace(self, batch_size=size)

    def start(self) -> Callable[[int], dict[str, int]]:
        self.at_start(self.batch_size)

        def step(turn: int) -> dict[str, int]:
            if turn == 1:
                self.at_turn_1(self.batch_size)
            return {"turn": turn}

        return step


def test_those_that_die_or_fail_say_so_and_the_others_go_on(racing) -> None:
    field = [Fake(at_start=dies), Fake(at_turn_1=dies), Fake(at_turn_1=fails), Fake()]
    dead, died, failed, fine = racing.race(field, warm_up=1, repeats=2)
    assert dead == died == ([], None, "exit code 3")
    assert failed == ([], None, "ValueError: a shape is wrong")
    assert fine == ([{"turn": 1}, {"turn": 2}], {"turn": 0}, None)


@pytest.mark.parametrize("when", ["at_start", "at_turn_1"])
def test_memory_that_is_short_halves_the_batch(racing, when: str) -> None:
    measured, outcome = racing.race_alone(Fake(**{when: needs_memory}), 1, 1)
    assert measured.batch_size == 1
    assert outcome == ([{"turn": 1}], {"turn": 0}, None)


def test_nothing_else_halves_it(racing) -> None:
    measured, outcome = racing.race_alone(Fake(at_turn_1=dies), 0, 2)
    assert measured.batch_size == 2
    assert outcome == ([], None, "exit code 3")
