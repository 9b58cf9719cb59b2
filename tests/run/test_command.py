"""Where a budget begins: with the process for a command, with the call for Python."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from plm_composer.budget.ledger import process_start
from plm_composer.run.command import main, train_run


class LedgerOpened(Exception):
    """Ends a run where its time begins to count."""


def beginning_of(start: Callable[[], object], monkeypatch: pytest.MonkeyPatch, folder: Path) -> float:
    def open_ledger(path: Path, budget: float, resumes: bool, started: float) -> None:
        raise LedgerOpened(started)

    monkeypatch.chdir(folder)
    monkeypatch.setattr("plm_composer.run.train.open_ledger", open_ledger)
    with pytest.raises(LedgerOpened) as caught:
        start()
    return float(caught.value.args[0])


@pytest.fixture
def run(tiny: tuple[str, ...]) -> tuple[str, ...]:
    return ("esm2_small", "budget=1h", *(word for word in tiny if not word.startswith("max_duration")))


def test_a_budget_counts_from_the_call_in_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: tuple[str, ...]
) -> None:
    before = time.time()
    begun = beginning_of(lambda: train_run(*run), monkeypatch, tmp_path)
    assert before <= begun <= time.time()


def test_a_budget_counts_from_the_start_of_a_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: tuple[str, ...]
) -> None:
    begun = beginning_of(lambda: main(run), monkeypatch, tmp_path)
    assert begun == pytest.approx(process_start(), abs=1)
