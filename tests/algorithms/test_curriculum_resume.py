"""All curricula on: batches, counts and weights do not depend on workers, nor on a kill and a resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.algorithms.small_training import same_batches, same_weights, small_training

CURRICULA = (
    "algorithms.mask_rate_schedule={initial_rate: 0.3, final_rate: 0.1}",
    "algorithms.sequence_length_warmup={start_length: 16, t_end: 0.7dur, step_size: 4}",
    "algorithms.batch_size_warmup={initial_share: 0.25, t_end: 4ba}",
    "save_interval=3ba",
)


@pytest.mark.parametrize("batch_format", ["unpadded", "padded"])
def test_a_resume_is_the_unbroken_run(small_set: Path, tmp_path: Path, batch_format: str) -> None:
    overrides = (*CURRICULA, f"data.batch_format={batch_format}")
    with small_training(small_set / "shards", *overrides, f"save_folder={tmp_path}", "data.num_workers=2",
                        "save_num_checkpoints_to_keep=-1") as training:  # fmt: skip
        training.fit()
        unbroken, weights = training.watcher, training.weights
    checkpoint = tmp_path / "ep0-ba3-rank0.pt"
    with small_training(small_set / "shards", *overrides, f"load_path={checkpoint}") as training:
        training.fit()
        resumed = training.watcher
        assert same_weights(training.weights, weights)
    assert len(unbroken.batches) == 6
    assert same_batches(resumed.batches, unbroken.batches[3:])
    assert resumed.losses == unbroken.losses[3:]
    assert resumed.counts == unbroken.counts[3:]
    # 16 proteins a batch are read, whatever is trained on; tokens are those trained on.
    assert [proteins for proteins, _ in unbroken.counts] == [16 * batch for batch in range(1, 7)]
    assert unbroken.counts[0][1] <= 4 * 16
    assert unbroken.counts[5][1] - unbroken.counts[4][1] > 16 * 32
