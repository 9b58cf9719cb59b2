"""The training loop against the bare step: what Composer, the loader, callbacks and loggers cost.

``train.py`` trains a YAML's model for some batches, and logs how many real tokens a second it has, waiting for data
included. The same model and optimizer then step over the same batches with nothing around them: these lie on the device
before the clock starts. Both run in processes of their own, in turn.

    python benchmarks/loop.py yamls/esm2_small.yaml recipe=cramming --batches 60 --repeats 3
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from machine import best_device, send, timed
from tables import print_table, write_json
from torch.utils.data import DataLoader

from plm_composer.data.batches import Batch, count_tokens, split_by_tokens
from plm_composer.data.streaming.dataset import StreamingProteinDataset
from plm_composer.hardware.machine import describe_machine, prepare_cpu
from plm_composer.hardware.precision import working_dtype
from plm_composer.run.conversion import prepare_shards
from plm_composer.run.datasets import find_places, make_dataset
from plm_composer.run.load import load_config
from plm_composer.run.parts import make_parts
from plm_composer.run.trainer import make_model

TRAIN = Path(__file__).parent.parent / "train.py"
WARM_UP = 5
"""Batches at the start of each that are left out."""
COLUMNS = {
    "what": "what",
    "real_tokens_per_second": "real tokens/s",
    "spread": "min to max",
    "share": "share of the bare step",
}


def train(yaml: Path, overrides: Sequence[str], batches: int, folder: Path) -> float:
    """Real tokens a second of ``train.py``, after the first batches.

    Args:
        yaml: The run's.
        overrides: Of the run.
        batches: How many to train.
        folder: The run folder.
    """
    command = [sys.executable, str(TRAIN), str(yaml), *overrides, *for_some_batches(batches, folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss/train/total" in line]
    first, last = steps[WARM_UP - 1], steps[-1]
    return float((last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"]))


def for_some_batches(batches: int, folder: Path) -> tuple[str, ...]:
    """Overrides that make any run one of some batches, of which only ``metrics.jsonl`` is wanted.

    Args:
        batches: How many to train.
        folder: The run folder.
    """
    # Without checkpoints there is nothing to resume from, which some YAMLs want to.
    without = ("save_folder=null", "autoresume=false", "export=false", "progress_bar=false", "data.val_split=null")
    return (f"max_duration={batches}ba", f"run_folder={folder}", *without)


def step(yaml: Path, overrides: Sequence[str], batches: int) -> float:
    """Real tokens a second of bare steps: forward, backward, clipping and update. Arguments as for ``train``."""
    parts = make_parts(load_config(yaml, [*overrides, "data.val_split=null"]))
    config = parts.config
    device = best_device()
    kind = "gpu" if device.type == "cuda" else "cpu"
    if kind == "cpu":
        prepare_cpu()
    torch.manual_seed(config.seed)
    dataset = make_dataset(parts, find_places(config, prepare_shards(config.data, progress=False)))
    model = make_model(parts).to(device).train()
    optimizer = parts.optimizer.make(model)
    dtype = working_dtype(config.precision, kind)

    def work(microbatches: Sequence[Batch]) -> None:
        optimizer.zero_grad()
        for part in microbatches:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = model.loss(model(part), part)
            (loss / len(microbatches)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    limit, tokens, seconds = config.device_train_microbatch_tokens, 0, 0.0
    for number, batch in enumerate(itertools.islice(loaded(dataset), batches)):
        cut = [batch] if limit is None else split_by_tokens(batch, limit)
        microbatches = [send(part, device) for part in cut]
        taken = timed(functools.partial(work, microbatches), device)
        if number >= WARM_UP:
            tokens, seconds = tokens + count_tokens(batch)["total"], seconds + taken
    return tokens / seconds


def loaded(dataset: StreamingProteinDataset) -> Iterator[Batch]:
    """The batches that a training gets, epoch after epoch."""
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=dataset.batch_size, collate_fn=dataset.collate, drop_last=True
    )
    while True:
        yield from loader


def make_row(what: str, speeds: Sequence[float], bare: Sequence[float]) -> dict[str, Any]:
    """Medians over the repeats."""
    median = statistics.median(speeds)
    spread = f"{min(speeds):,.0f} to {max(speeds):,.0f}"
    share = median / statistics.median(bare)
    return {"what": what, "real_tokens_per_second": median, "spread": spread, "share": share}


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("yaml", type=Path)
    parser.add_argument("overrides", nargs="*", help="of the run, key=value")
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the rows there")
    arguments = parser.parse_args()
    if arguments.batches <= WARM_UP:
        parser.error(f"--batches is {arguments.batches}; it must be above {WARM_UP}, which are left out")
    print(describe_machine(), flush=True)
    trained, bare = [], []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            trained.append(train(arguments.yaml, arguments.overrides, arguments.batches, Path(folder) / "run"))
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            bare.append(process.submit(step, arguments.yaml, arguments.overrides, arguments.batches).result())
    rows = [make_row("train.py", trained, bare), make_row("bare step", bare, bare)]
    print_table(f"{arguments.yaml.stem} {' '.join(arguments.overrides)}".strip(), rows, COLUMNS)
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
