"""Metrics files as runs leave them, however they ended."""

import json

import numpy as np
import pytest

from plm_composer.report.series import distinct_rates, read_metrics, smooth, thin

VALIDATION_LOSS = "metrics/eval/masked_nll"


def line(batch, **metrics):
    clock = {"batch": batch, "epoch": 0, "proteins": 8 * batch, "tokens": 100 * batch, "seconds": 0.5 * batch}
    return json.dumps(clock | metrics) + "\n"


def metrics_of(tmp_path, text):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    return read_metrics(path)


def test_a_batch_has_the_metrics_of_its_training_and_its_validation(tmp_path) -> None:
    metrics = metrics_of(tmp_path, line(1, loss=4.0) + line(2, loss=3.0) + line(2, **{VALIDATION_LOSS: 3.5}))
    assert [x.tolist() for x in metrics.series("loss", "tokens")] == [[100, 200], [4, 3]]
    assert [x.tolist() for x in metrics.series(VALIDATION_LOSS, "seconds")] == [[1.0], [3.5]]
    assert (metrics.last("loss"), metrics.last("nothing"), metrics.has("nothing")) == (3.0, None, False)


def test_what_was_trained_again_after_a_resume_counts_once(tmp_path) -> None:
    first = "".join(line(batch, loss=float(batch)) for batch in range(1, 7))
    # Killed after batch 6, resumed from the checkpoint of batch 3, and now at batch 5.
    metrics = metrics_of(tmp_path, first + line(4, loss=40.0) + line(5, loss=50.0))
    assert metrics.series("loss", "tokens")[1].tolist() == [1, 2, 3, 40, 50]
    assert metrics.last("batch") == 5


def test_a_validation_that_was_made_again_counts_once(tmp_path) -> None:
    text = line(1, loss=2.0) + line(1, **{VALIDATION_LOSS: 3.0}) + line(1, **{VALIDATION_LOSS: 2.5})
    assert metrics_of(tmp_path, text).series(VALIDATION_LOSS, "tokens")[1].tolist() == [2.5]


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_that_is_being_written_is_left_out(tmp_path, cut: int) -> None:
    metrics = metrics_of(tmp_path, line(1, loss=4.0) + line(2, loss=3.0)[:cut])
    assert (metrics.last("batch"), metrics.unfinished, metrics.skipped) == (1, True, 0)


def test_other_lines_that_cannot_be_read_are_counted(tmp_path) -> None:
    metrics = metrics_of(tmp_path, line(1, loss=4.0) + '{"batch": 2\nnot json\n[1]\n' + line(3, loss=3.0))
    assert (metrics.column("batch").tolist(), metrics.unfinished, metrics.skipped) == ([1, 3], False, 3)


def test_a_loss_that_is_not_finite_leaves_a_gap(tmp_path) -> None:
    metrics = metrics_of(tmp_path, line(1, loss=4.0) + line(2, loss=None) + line(3, loss=3.0))
    assert metrics.series("loss", "tokens")[0].tolist() == [100, 300]


@pytest.mark.parametrize("text", ["", "\n", None])
def test_a_run_without_metrics_has_no_rows(tmp_path, text) -> None:
    metrics = read_metrics(tmp_path / "none.jsonl") if text is None else metrics_of(tmp_path, text)
    assert metrics.column("tokens").tolist() == []
    assert len(metrics.flops) == 0
    assert metrics.last("batch") is None


def test_flops_are_those_per_token_times_the_tokens(tmp_path) -> None:
    # 20 FLOPs a token, then 30; the window is not full at the first batch, and tokens a second change freely.
    speeds = [None, (10, 200), (50, 1000), (10, 300)]
    names = ("throughput/tokens_per_sec", "throughput/flops_per_sec")
    logged = [{} if speed is None else dict(zip(names, speed, strict=True)) for speed in speeds]
    text = "".join(line(batch, **metrics) for batch, metrics in enumerate(logged, 1))
    assert metrics_of(tmp_path, text).flops.tolist() == [2000, 4000, 6000, 9000]
    assert np.isnan(metrics_of(tmp_path, line(1, loss=1.0)).flops).all()


def test_learning_rates_that_are_the_same_are_one(tmp_path) -> None:
    groups = [{"lr-Muon/group0": x, "lr-Muon/group1": x, "lr-Muon/group2": x / 2, "loss": 1.0} for x in (0.1, 0.2)]
    metrics = metrics_of(tmp_path, "".join(line(batch, **group) for batch, group in enumerate(groups)))
    assert distinct_rates(metrics) == ["lr-Muon/group0", "lr-Muon/group2"]


def test_smoothing_keeps_lines_and_thinning_keeps_means() -> None:
    flat = np.full(50, 3.0)
    np.testing.assert_allclose(smooth(flat, 7), flat)
    slope = np.arange(50.0)
    np.testing.assert_allclose(smooth(slope, 5)[2:-2], slope[2:-2])
    assert smooth(slope, 1) is slope
    x, y = thin(np.arange(10_001.0), np.arange(10_001.0) ** 2, 101)
    assert (len(x), x[-1], y[-1]) == (101, 10_000, 10_000**2)
    np.testing.assert_allclose(x[:2], [49.5, 149.5])
    assert thin(slope, slope, 50)[0] is slope
