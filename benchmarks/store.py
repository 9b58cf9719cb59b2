"""What streaming from a store costs: the same run from a remote dataset with an empty cache, and from a local copy.

Runs are interleaved, each a process of its own. Real tokens a second of training, waits for data included, after the
first batches; medians. Credentials are in the environment, as for training.

    python benchmarks/store.py --local data/uniref50 --remote s3://bucket/uniref50 --json store.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tables import print_table, write_json

from plm_composer.hardware.machine import describe_machine

REPOSITORY = Path(__file__).resolve().parent.parent
COLUMNS = {
    "implementation": "data",
    "real_tokens_per_second": "real tokens/s",
    "spread": "min to max",
    "waits": "waiting for data",
    "ratio": "over local",
}


def run(place: Mapping[str, str], yaml: Path, batches: int, warm_up: int, overrides: list[str]) -> tuple[float, float]:
    """Trains in a scratch folder.

    Args:
        place: ``local`` or ``remote`` of the data; a remote's cache is new.
        yaml: What to train.
        batches: How many in all.
        warm_up: Batches that are not counted.
        overrides: Further ``key=value``.

    Returns:
        Real tokens a second, and the share of the time that was spent waiting for data.
    """
    with tempfile.TemporaryDirectory() as scratch:
        data = [f"data.{key}={value}" for key, value in ({"local": f"{scratch}/cache"} | dict(place)).items()]
        fixed = [
            "run_name=streaming", f"max_duration={batches}ba", "data.val_split=null", "eval_interval=0", "export=false",
            "save_folder=null", "progress_bar=false", "callbacks.efficiency_monitor.window_size=1",
        ]  # fmt: skip
        subprocess.run(
            [sys.executable, REPOSITORY / "train.py", yaml, *overrides, *data, *fixed],
            cwd=scratch, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        lines = [json.loads(line) for line in Path(scratch, "runs/streaming/metrics.jsonl").read_text().splitlines()]
    counted = [line for line in lines if "throughput/data_wait_share" in line]
    first, last = counted[warm_up - 1], counted[-1]
    waits = statistics.mean(line["throughput/data_wait_share"] for line in counted[warm_up:])
    return (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"]), waits


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--local", required=True, type=Path, help="the dataset in a folder")
    parser.add_argument("--remote", required=True, help="the same dataset in a store")
    parser.add_argument("--yaml", type=Path, default=REPOSITORY / "yamls" / "esm2_small.yaml")
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("overrides", nargs="*", help="key=value of the run")
    arguments = parser.parse_args()
    places = {"local": {"local": str(arguments.local.resolve())}, "remote": {"remote": arguments.remote}}
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in places}
    for _ in range(arguments.repeats):
        for name, place in places.items():
            measured[name].append(
                run(place, arguments.yaml.resolve(), arguments.batches, arguments.warm_up, arguments.overrides)
            )
    local = statistics.median(speed for speed, _ in measured["local"])
    rows = []
    for name, results in measured.items():
        speeds = [speed for speed, _ in results]
        speed = statistics.median(speeds)
        rows.append(
            {
                "implementation": name,
                "real_tokens_per_second": speed,
                "spread": f"{min(speeds):.0f} to {max(speeds):.0f}",
                "waits": f"{statistics.median(waits for _, waits in results):.1%}",
                "ratio": speed / local,
            }
        )
    print(describe_machine())
    print_table(f"Training from a store, {arguments.batches} batches", rows, COLUMNS)
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
