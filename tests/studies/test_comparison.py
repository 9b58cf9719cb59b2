"""The statistics of a study, against numpy, scipy and numbers by hand."""

import numpy as np
import pytest
from scipy import stats

from plm_composer.studies.comparison import compare, spread, summarise, time_to_loss
from plm_composer.studies.results import Failure
from plm_composer.studies.schema import load_study
from tests.studies.fake_runs import result, write_study

REFERENCE = [2.91, 2.87, 2.95, 2.90]
OTHER = [2.88, 2.86, 2.89, 2.88]


def runs(name: str, losses: list[float]):
    return [result(name, seed, loss) for seed, loss in enumerate(losses, 1)]


def test_the_spread_is_numpys() -> None:
    found = spread(OTHER)
    assert (found.mean, found.sd) == pytest.approx((np.mean(OTHER), np.std(OTHER, ddof=1)))
    assert (found.low, found.high) == (2.86, 2.89)
    assert spread([2.0]).sd is None


def test_the_interval_is_scipys_paired_t() -> None:
    found = compare(runs("b", OTHER), runs("a", REFERENCE))
    expected = stats.ttest_rel(OTHER, REFERENCE).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    # By hand: differences -3, -1, -6, -2 hundredths, sd 2.16, t of 3 degrees of freedom 3.182.
    assert (found.mean, found.high) == pytest.approx((-0.03, -0.03 + 3.1824 * 0.021602 / 2), abs=1e-5)


def test_pairs_are_seeds_that_both_have() -> None:
    found = compare([result("b", 2, 2.5), result("b", 3, 2.7)], [result("a", 3, 2.8), result("a", 1, 9.0)])
    assert (found.mean, found.low, found.pairs) == (pytest.approx(-0.1), None, 1)
    assert compare([result("b", 1, 2.5)], [result("a", 2, 2.5)]) is None
    same = compare(runs("b", [2.5, 2.5]), runs("a", [2.5, 2.5]))
    assert (same.low, same.high, same.pairs) == (0, 0, 2)


def test_a_variant_without_results_is_there_all_the_same(tmp_path) -> None:
    study = load_study(write_study(tmp_path))
    plain, fast = summarise(study, runs("plain", [3.0, 3.2]), [Failure("fast", 1, "x", "log")])
    found = plain.outcome
    assert (plain.done, found.loss.mean, found.seconds, found.difference) == (2, pytest.approx(3.1), 15, None)
    assert (fast.done, fast.failed, fast.outcome) == (0, 1, None)
    assert list(plain.to_mapping()) == list(fast.to_mapping())
    assert (plain.to_mapping()["seconds"], fast.to_mapping()["seconds"]) == (15, None)


def test_speedup_is_the_median_over_seeds_that_both_reached_it() -> None:
    slow = [result("a", seed, 2.0, [(10, 100, 4.0), (10 * (seed + 1), 300, 2.0)]) for seed in (1, 2, 3)]
    fast = [result("b", seed, 2.0, [(5, 100, 4.0), (10, 300, 2.0)]) for seed in (1, 2)]
    never = result("b", 3, 3.5, [(5, 100, 4.0), (10, 300, 3.5)])
    found = time_to_loss([*fast, never], slow, 3.0)
    # At 7.5 s; the reference at 15 s and 20 s.
    assert (found.seconds, found.tokens, found.reached, found.runs) == (7.5, 200, 2, 3)
    assert found.speedup == pytest.approx((15 / 7.5 + 20 / 7.5) / 2)
    assert time_to_loss([never], slow, 3.0).speedup is None
