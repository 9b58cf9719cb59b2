"""Times the report of a run as the run itself writes it: what training has imported is imported before.

python benchmarks/report.py RUN
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import plm_composer.run.train  # noqa: F401  what a run has imported by its end

REPEATS = 5


def main(run: Path) -> dict[str, float]:
    """Writes the report several times; the first time includes imports.

    Args:
        run: The run folder.

    Returns:
        Seconds of the first time and the median of the others, by the clock and of the processor.
    """
    spent = []
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(REPEATS + 1):
            clock, processor = time.perf_counter(), time.process_time()
            from plm_composer.report.page import write_report

            write_report([run], Path(scratch) / "report.html")
            spent.append((time.perf_counter() - clock, time.process_time() - processor))
    clocks, processors = zip(*spent, strict=True)
    return {
        "first_seconds": clocks[0],
        "first_cpu_seconds": processors[0],
        "median_seconds": statistics.median(clocks[1:]),
        "median_cpu_seconds": statistics.median(processors[1:]),
    }


if __name__ == "__main__":
    print(json.dumps({name: round(value, 3) for name, value in main(Path(sys.argv[1])).items()}))
