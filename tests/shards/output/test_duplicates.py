import numpy as np

from plm_composer.shards.output.duplicates import DigestSet


def test_like_a_set_over_many_batches():
    rng = np.random.default_rng(0)
    digests, seen = DigestSet(), set()
    for size in [3, 0, 1, 500, 2, 2, 2, 1000, 7, 7]:
        batch = rng.integers(0, 2000, size).astype(np.uint64) << np.uint64(50)
        expected = []
        for value in batch.tolist():
            expected.append(value not in seen)
            seen.add(value)
        assert digests.add(batch).tolist() == expected
        assert digests.contains(batch).all()
    everything = np.arange(2000, dtype=np.uint64) << np.uint64(50)
    assert digests.contains(everything).tolist() == [value in seen for value in everything.tolist()]
