"""Options and output that commands share."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from plm_composer.evaluation.results import Result

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Device = Annotated[str | None, typer.Option(help="cpu or gpu; default: a GPU if there is one.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, amp_bf16 or amp_fp16.")]
BatchTokens = Annotated[int, typer.Option(min=1, help="Most tokens of a batch.")]
Trust = Annotated[bool, typer.Option("--trust", help="Load the checkpoint whole, and run whatever code it carries.")]
Model = Annotated[
    str, typer.Argument(help="A run folder, a checkpoint, or a Hugging Face folder; of an object store, too.")
]


def keep_result(model: str, result: Result) -> None:
    """Keeps the result of an evaluation in the run folder that a command's model names; other models have no place.

    Args:
        model: The command's argument.
        result: The result.
    """
    from plm_composer.evaluation.results import write_result
    from plm_composer.run_folder import RunFolder

    run = RunFolder(Path(model))
    if run.config.is_file() and run.holds_a_run():
        print(f"written: {write_result(run.path, result)}", file=sys.stderr)


def place_of(device: str | None, precision: str) -> dict[str, Any]:
    """Finds the torch device and autocast dtype of ``--device`` and ``--precision``.

    Raises:
        UserError: There is no such device or precision here.
    """
    import torch

    from plm_composer.hardware.machine import check_device, prepare_cpu
    from plm_composer.hardware.precision import AUTOCAST_DTYPES, check_precision, resolve_precision

    check_precision("--precision", precision)
    check_device("--device", device)
    name = device or ("gpu" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        prepare_cpu()
    dtype = AUTOCAST_DTYPES.get(resolve_precision(precision, name))
    return {"device": "cuda" if name == "gpu" else "cpu", "autocast_dtype": dtype}


def print_result(result: dict[str, Any], as_json: bool) -> None:
    """Prints a result on stdout, a line a key, or as one JSON object."""
    if as_json:
        print(json.dumps(result))
        return
    width = max(map(len, result), default=0)
    for key, value in result.items():
        print(f"{key:<{width}}  {f'{value:.4f}' if isinstance(value, float) else value}")


def print_evaluation(model: str, result: Result, as_json: bool, **more: Any) -> None:
    """Prints a result of an evaluation on stdout, and writes it into the run folder if the model is one.

    Args:
        model: The model, as the user named it.
        result: The result.
        as_json: Whether to print one JSON object instead of a line a score.
        more: What the JSON object holds beside the result.
    """
    keep_result(model, result)
    if as_json:
        print(json.dumps({"model": model, **dataclasses.asdict(result), **more}))
        return
    lines = {"model": model, "data": result.name, **result.settings}
    for name, score in result.scores.items():
        interval = "" if score.low is None or score.high is None else f"  [{score.low:.4f}, {score.high:.4f}]"
        lines[name] = f"{score.value:.4f}{interval}"
    print_result(lines, as_json=False)
