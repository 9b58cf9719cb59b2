"""Results of evaluations survive in the run folder, and a damaged one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from plm_composer.errors import UserError
from plm_composer.evaluation.results import Result, Score, read_results, write_result


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    first = Result("variants", "BLAT_ECOLX/Stiffler 2015", {"spearman": Score(0.5, 0.4, 0.6)}, {"method": "pll"})
    second = Result("contacts", "sample", {"precision_at_L": Score(0.25)})
    assert read_results(tmp_path) == []
    write_result(tmp_path, first)
    write_result(tmp_path, second)
    write_result(tmp_path, second)
    assert read_results(tmp_path) == [second, first]


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    path = write_result(tmp_path, Result("probe", "x", {"r2": Score(0.1)}))
    path.write_text("{")
    with pytest.raises(UserError, match=r"probe-x\.json: not a result"):
        read_results(tmp_path)
