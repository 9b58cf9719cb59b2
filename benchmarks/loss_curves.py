"""Validation loss against minutes: ours, young-su-ko's recipe, and `transformers`, from FASTA to model.

Each contender trains from the command line for the same time, start-up and conversion included, and leaves its model at
eight moments. All of these are scored afterwards by the pinned evaluation, so that no contender pays for it. The
contenders run in turn, seed after seed. On a GPU they are larger: ours, and young-su-ko's recipe at its own size, 67M.

    python benchmarks/loss_curves.py --train train.fasta.gz --val val600.fasta.gz --seconds 300 \
        --json benchmarks/results/loss_curves.json
    python benchmarks/loss_curves.py --json benchmarks/results/loss_curves.json --plot docs/images/loss_curves.svg
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import best_device
from matplotlib import rc_context
from matplotlib.figure import Figure
from tables import print_table

from plm_composer import evaluate, load_model
from plm_composer.evaluation.evaluate import read_proteins
from plm_composer.hardware.machine import describe_machine
from plm_composer.hardware.precision import autocast_dtype
from plm_composer.plotting import make_styles, open_axes

ROOT = Path(__file__).parent.parent
SAVES = 8
COLUMNS = {"contender": "", "seed": "seed", "seconds": "the command took, s", "loss": "loss, nats"}
Command = Callable[[Path, Path, int, int], list[str]]


def auto(train: Path, out: Path, seconds: int, seed: int) -> list[str]:
    """``yamls/auto.yaml``, which chooses size and batch by the time."""
    return composer("auto", train, out, seconds, seed)


def protein_language_model(train: Path, out: Path, seconds: int, seed: int) -> list[str]:
    """The recipe of young-su-ko's ``protein-language-model``, at a CPU's size: docs/recipes.md.

    Its bf16 is fp32 where a CPU would only imitate it. Its batch comes in parts, with the same gradients: in fp32 the
    whole takes more than 20 GB.
    """
    recipe = ("recipe=cramming_2024", "data.crop_length=512", "data.batch_format=padded_to_crop_length")
    model = ("precision=auto", "model.initializer_range=0.02", "global_train_batch_size=32")
    parts = ("device_train_microbatch_size=8",)
    return composer("esm2_small", train, out, seconds, seed, *recipe, *model, *parts)


def cramming(train: Path, out: Path, seconds: int, seed: int) -> list[str]:
    """``yamls/cramming.yaml``, 67M, with ``recipe=cramming``, in batches that leave some hundred of them in minutes."""
    return composer("cramming", train, out, seconds, seed, "recipe=cramming", "global_train_batch_size=512")


def protein_language_model_67m(train: Path, out: Path, seconds: int, seed: int) -> list[str]:
    """The recipe of young-su-ko's ``protein-language-model`` at its own size: docs/recipes.md.

    67M padded to 512 in bf16, AdamW at 1e-3, 25 % ``<mask>``, clipping at 0.5, and its batch, 16 times 128 proteins.
    """
    recipe = ("recipe=cramming_2024", "data.crop_length=512", "data.batch_format=padded_to_crop_length")
    batch = ("global_train_batch_size=2048", "device_train_microbatch_tokens=65536")
    return composer("cramming", train, out, seconds, seed, *recipe, "precision=amp_bf16", *batch)


def composer(yaml: str, train: Path, out: Path, seconds: int, seed: int, *overrides: str) -> list[str]:
    """The command that trains a YAML from FASTA, and keeps its checkpoints."""
    data = (f"data.fasta={train}", f"data.local={out}-shards", "data.val_split=null")
    keep = (f"save_interval={1 / SAVES}dur", "save_num_checkpoints_to_keep=-1", "progress_bar=false", "report=false")
    run = (f"run_folder={out}", f"budget={seconds}s", f"seed={seed}")
    return [sys.executable, str(ROOT / "train.py"), str(ROOT / f"yamls/{yaml}.yaml"), *overrides, *data, *keep, *run]


def transformers(train: Path, out: Path, seconds: int, seed: int) -> list[str]:
    """ESM2-8M by Hugging Face's Trainer: benchmarks/hf_trainer.py."""
    script = str(ROOT / "benchmarks/hf_trainer.py")
    return [
        sys.executable, script, "--fasta", str(train), "--seconds", str(seconds), "--out", str(out),
        "--seed", str(seed), "--saves", str(SAVES),
    ]  # fmt: skip


CONTENDERS: dict[str, dict[str, tuple[Command, str]]] = {
    "cpu": {
        "plm-composer, auto": (auto, "checkpoints/*.pt"),
        "transformers' Trainer (ESM2-8M)": (transformers, "*s"),
        "young-su-ko's protein-language-model (ESM2-8M)": (protein_language_model, "checkpoints/*.pt"),
    },
    "cuda": {
        "plm-composer, auto": (auto, "checkpoints/*.pt"),
        "plm-composer, recipe=cramming (67 M)": (cramming, "checkpoints/*.pt"),
        "young-su-ko's protein-language-model (67 M)": (protein_language_model_67m, "checkpoints/*.pt"),
    },
}
"""By device, name to the command that trains, and to where its models are."""


def train(name: str, fasta: Path, folder: Path, seconds: int, seed: int) -> dict[str, Any]:
    """Trains one contender, and finds its models.

    Args:
        name: The contender.
        fasta: Training set.
        folder: Folder for the run.
        seconds: Time of the command.
        seed: Of weights, order and masks.

    Returns:
        A row without losses: ``models`` has each model with the seconds from the start of the command to its file.
    """
    command, pattern = CONTENDERS[best_device().type][name]
    out = folder / f"{command.__name__}-{seed}"
    began = time.time()
    subprocess.run(command(fasta, out, seconds, seed), check=True, stdout=subprocess.DEVNULL)
    took = time.time() - began
    models = {str(path): path.stat().st_mtime - began for path in out.glob(pattern) if not path.is_symlink()}
    return {"contender": name, "seed": seed, "seconds": took, "models": models}


def score(row: dict[str, Any], proteins: Sequence[bytes]) -> dict[str, Any]:
    """Scores the models of a run: ``curve`` has seconds and loss of each, in order."""
    models = sorted(row.pop("models").items(), key=lambda item: item[1])
    device = best_device()
    # fp32 is fast enough on a GPU.
    dtype = autocast_dtype("auto", "cpu") if device.type == "cpu" else None
    losses = [evaluate(load_model(path), proteins, device=str(device), autocast_dtype=dtype).loss for path, _ in models]
    curve = [(round(at, 1), round(loss, 5)) for (_, at), loss in zip(models, losses, strict=True)]
    return {**row, "seconds": round(row["seconds"], 1), "curve": curve, "loss": curve[-1][1]}


def names_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The contenders of a result, which may be another device's, in order."""
    return list(dict.fromkeys(row["contender"] for row in rows))


def draw(result: dict[str, Any], path: Path) -> None:
    """Draws the curves: the median of the seeds, and a band from the lowest to the highest.

    Args:
        result: What ``--json`` has.
        path: The file; its suffix sets the format.
    """
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    bottom = np.inf
    names = names_of(result["rows"])
    for name, style in zip(names, make_styles(len(names)), strict=True):
        curves = [np.array(row["curve"]) for row in result["rows"] if row["contender"] == name]
        grid = np.linspace(min(curve[0, 0] for curve in curves), min(curve[-1, 0] for curve in curves), 100)
        losses = np.stack([np.interp(grid, curve[:, 0], curve[:, 1], left=np.nan) for curve in curves])
        minutes, bottom = grid / 60, min(bottom, np.nanmin(losses))
        axes.plot(minutes, np.nanmedian(losses, axis=0), label=name, **{**style, "marker": ""})
        low, high = np.nanmin(losses, axis=0), np.nanmax(losses, axis=0)
        axes.fill_between(minutes, low, high, color=style["color"], alpha=0.2, linewidth=0)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom - 0.01, bottom + 0.2)  # A run whose loss jumps leaves the frame.
    axes.set_xlabel(f"minutes from the start of the command, {result.get('gpu') or 'two CPU cores'}")
    axes.set_ylabel("validation loss, nats")
    axes.legend(frameon=False)
    open_axes(axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def summarize(rows: Sequence[dict[str, Any]]) -> None:
    """Prints a line for each run, and the median of each contender."""
    print_table("loss at the end", rows, COLUMNS)
    for name in names_of(rows):
        losses = [row["loss"] for row in rows if row["contender"] == name]
        print(f"{name}: median {statistics.median(losses):.4f} of {len(losses)}")


def main() -> None:
    """Reads the arguments, trains, scores, draws."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--train", type=Path, help="FASTA to train on; without it, the plot is drawn from --json")
    parser.add_argument("--val", type=Path, help="FASTA to score on")
    parser.add_argument("--seconds", type=int, default=300, help="time of each command")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path, required=True, help="the result: written, or read where --train is absent")
    parser.add_argument("--plot", type=Path, help="draw the curves there, .svg or .png")
    arguments = parser.parse_args()
    if arguments.train is not None:
        proteins = read_proteins(str(arguments.val))
        with tempfile.TemporaryDirectory() as folder:
            rows = []
            for seed in arguments.seeds:
                for name in CONTENDERS[best_device().type]:
                    rows.append(train(name, arguments.train.resolve(), Path(folder), arguments.seconds, seed))
                    print(f"trained: {name}, seed {seed}, {rows[-1]['seconds']:.1f} s", flush=True)
            scored = [score(row, proteins) for row in rows]
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        gpu = torch.cuda.get_device_name() if best_device().type == "cuda" else None
        result = {"machine": describe_machine(), "gpu": gpu, "seconds": arguments.seconds, "rows": scored}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    result = json.loads(arguments.json.read_text())
    summarize(result["rows"])
    if arguments.plot is not None:
        draw(result, arguments.plot)


if __name__ == "__main__":
    main()
