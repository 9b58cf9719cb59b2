"""Reading converted data sets back."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def read_split() -> Callable[[Path], list[bytes]]:
    """Reads the proteins of a split folder in order, as training does."""
    from streaming import StreamingDataset

    from plm_composer.data.streaming.leftovers import one_at_a_time

    def read(folder: Path) -> list[bytes]:
        with one_at_a_time():
            dataset = StreamingDataset(local=str(folder), shuffle=False, batch_size=1)
        return [dataset[i]["sequence"] for i in range(len(dataset))]

    return read
