"""The ledger charges every second once, over all starts of a run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plm_composer.budget.ledger import FILE_NAME, Ledger, open_ledger
from plm_composer.errors import UserError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_every_second_is_charged_once(tmp_path: Path) -> None:
    clock = Clock()
    ledger = Ledger(tmp_path / FILE_NAME, 60.0, started=990.0, clock=clock)
    clock.now += 5
    ledger.charge("training")
    clock.now += 20
    before = ledger.charge("evaluation")
    clock.now += 3
    ledger.charge(before)
    clock.now += 1
    entries = {name: seconds for name, seconds in ledger.entries().items() if seconds}
    assert entries == {"start-up": 15, "training": 21, "evaluation": 3}
    assert (ledger.spent(), ledger.left()) == (39, 21)
    assert "charged 39.0 s: start-up 15.0 s, training 21.0 s, evaluation 3.0 s" in ledger.summary()
    ledger.finish()
    written = json.loads((tmp_path / FILE_NAME).read_text())
    assert (written["charged"], written["finished"]) == (39, True)
    assert sum(written["entries"].values()) == 39


def test_an_evaluation_with_a_name_is_charged_under_it_over_all_starts(tmp_path: Path) -> None:
    clock = Clock()
    first = Ledger(tmp_path / FILE_NAME, 100.0, started=970.0, clock=clock)
    with first.charging("proteingym"):
        clock.now += 5
    first.write()
    second = open_ledger(tmp_path, 100.0, resumes=True, started=time.time())
    assert second.entries()["proteingym"] == 5
    assert "proteingym 5.0 s" in second.summary()


def test_a_killed_start_is_charged_to_the_next(tmp_path: Path) -> None:
    first = open_ledger(tmp_path, 100.0, resumes=True, started=time.time() - 30)
    first.charge("training")  # writes; then the process is killed
    second = open_ledger(tmp_path, 100.0, resumes=True, started=time.time() - 10)
    assert second.spent() == pytest.approx(40, abs=0.5)
    assert second.left() == pytest.approx(60, abs=0.5)


def test_a_new_run_starts_from_nothing(tmp_path: Path) -> None:
    open_ledger(tmp_path, 100.0, resumes=False, started=time.time() - 30).write()
    assert open_ledger(tmp_path, 100.0, resumes=False, started=time.time()).spent() < 1


def test_a_finished_run_keeps_its_ledger(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, 100.0, resumes=True, started=time.time() - 99)
    ledger.finish()
    written = (tmp_path / FILE_NAME).read_text()
    again = open_ledger(tmp_path, 100.0, resumes=True, started=time.time() - 9)
    again.finish()
    assert (tmp_path / FILE_NAME).read_text() == written
    assert again.left() < 1  # nothing is left to train with
    assert open_ledger(tmp_path, 200.0, resumes=True, started=time.time()).path is not None  # a larger budget goes on


def test_a_run_without_a_budget_keeps_none(tmp_path: Path) -> None:
    open_ledger(tmp_path, math.inf, resumes=True, started=time.time()).finish()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"entries": {}, "finished": false, "budget": 3}'])
def test_a_damaged_ledger_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(UserError, match="unknown what the run has spent"):
        open_ledger(tmp_path, 100.0, resumes=True, started=time.time())


def test_time_counts_from_the_start_of_the_process() -> None:
    program = "import time; from plm_composer.budget.ledger import process_start; print(process_start())"
    before = time.time()
    started = float(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
    assert before - 0.05 <= started < before + 1
