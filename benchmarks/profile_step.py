"""Where the time of a training step goes: the kernels of ours, eager and compiled, by the time that they take.

On a GPU it also says for how much of the step the GPU was busy: the rest is the host's, which holds it up.

    python benchmarks/profile_step.py --model esm2_150m --proteins 256
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from machine import best_device, send, timed
from tables import print_table, write_json
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile
from train_step import OURS, Contender, draw_proteins

from plm_composer.errors import run_command
from plm_composer.hardware.machine import describe_machine, synchronize
from plm_composer.model.config import PRESETS
from plm_composer.sample import TRAIN_FASTA

COLUMNS = {
    "kernel": "kernel",
    "calls": "calls",
    "milliseconds": "ms",
    "share": "share of the busy time",
}
LONGEST_NAME = 90


def profile_step(contender: Contender, warm_up: int, most: int) -> tuple[str, list[dict[str, Any]]]:
    """Profiles one step.

    Args:
        contender: One of ours.
        warm_up: Steps before it.
        most: Number of kernels to report.

    Returns:
        A line on the whole step, and its kernels, those that take longest first.
    """
    device = best_device()
    step = contender.prepare(device)
    batch = send(contender.batches()[0], device)
    for _ in range(warm_up):
        step(batch)
    seconds = timed(lambda: step(batch), device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities, acc_events=True) as recorded:
        step(batch)
        synchronize(device)
    kind = DeviceType.CUDA if device.type == "cuda" else DeviceType.CPU
    spent = {
        event: event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        for event in recorded.key_averages()
        if event.device_type == kind
    }
    busy = sum(spent.values())
    rows = [
        {
            "implementation": contender.implementation,
            "kernel": event.key[:LONGEST_NAME],
            "calls": event.count,
            "milliseconds": microseconds / 1e3,
            "share": microseconds / busy,
        }
        for event, microseconds in sorted(spent.items(), key=lambda item: -item[1])[:most]
    ]
    whole = f"{contender.implementation}: a step of {1e3 * seconds:.1f} ms"
    return f"{whole}, {device.type} busy for {busy / 1e3:.1f} ms of one as the profiler sees it", rows


def main() -> None:
    """Reads the arguments, profiles, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=list(PRESETS), default="esm2_8m")
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--proteins", type=int, default=16, help="proteins of the batch")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before the one that counts")
    parser.add_argument("--kernels", type=int, default=20, help="how many are shown")
    names = [name for name, (precision, _) in OURS.items() if precision == "bf16"]
    parser.add_argument("--implementation", nargs="+", choices=names, default=["ours: fast", "ours: fast, compiled"])
    parser.add_argument("--fasta", type=Path, default=TRAIN_FASTA, help="default: the bundled sample")
    parser.add_argument("--json", type=Path, help="write the rows there")
    arguments = parser.parse_args()

    print(describe_machine(), flush=True)
    proteins = tuple(draw_proteins(arguments.fasta, arguments.proteins))
    rows: list[dict[str, Any]] = []
    for name in arguments.implementation:
        precision, overrides = OURS[name]
        contender = Contender(name, precision, arguments.model, arguments.crop, proteins, arguments.proteins, overrides)
        title, kernels = profile_step(contender, arguments.warm_up, arguments.kernels)
        print_table(title, kernels, COLUMNS)
        rows += kernels
        torch.compiler.reset()
    write_json(arguments.json, rows)


if __name__ == "__main__":
    run_command(main)
