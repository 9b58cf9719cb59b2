"""What a run logs of its own efficiency, read from the runs themselves."""

import json

from tests.commands import run_here


def last_metrics(folder) -> dict:
    merged: dict = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        merged.update(json.loads(line))
    return merged


def test_a_run_logs_its_efficiency(finished_run) -> None:
    metrics = last_metrics(finished_run.folder)
    assert metrics["throughput/padding_share"] == 0
    assert 0 <= metrics["throughput/data_wait_share"] < 1
    assert metrics["memory/peak_mb"] > 100
    assert metrics["time/remaining_estimate"] >= 0


def test_padding_is_seen(finished_run, repository, tiny) -> None:
    result = run_here(
        finished_run.scratch, "train.py", repository / "yamls/esm2_small.yaml", *tiny, "recipe=baseline",
        "callbacks.speed_monitor.window_size=2",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    metrics = last_metrics(finished_run.scratch / "runs" / "esm2_small-baseline")
    assert 0 < metrics["throughput/padding_share"] < 1
    assert 0 < metrics["throughput/device/mfu"] < 1
    assert metrics["throughput/tokens_per_sec"] > 0
