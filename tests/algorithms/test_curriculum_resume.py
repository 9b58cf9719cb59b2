"""All curricula on: batches, counts and weights do not depend on workers, nor on a kill and a resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.algorithms.small_training import resume_from_each_checkpoint

CURRICULA = (
    "algorithms.mask_rate_schedule={initial_rate: 0.3, final_rate: 0.1}",
    "algorithms.sequence_length_warmup={start_length: 16, t_end: 0.7dur, step_size: 4}",
    "algorithms.batch_size_warmup={initial_share: 0.25, t_end: 4ba}",
)


@pytest.mark.parametrize("batch_format", ["unpadded", "padded"])
def test_a_resume_is_the_unbroken_run(small_set: Path, tmp_path: Path, batch_format: str) -> None:
    overrides = (*CURRICULA, f"data.batch_format={batch_format}")
    unbroken = resume_from_each_checkpoint(small_set / "shards", tmp_path, *overrides)
    # 16 proteins a batch are read, whatever is trained on; tokens are those trained on.
    assert [proteins for proteins, _ in unbroken.counts] == [16 * batch for batch in range(1, 7)]
    assert unbroken.counts[0][1] <= 4 * 16
    assert unbroken.counts[5][1] - unbroken.counts[4][1] > 16 * 32
