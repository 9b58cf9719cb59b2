"""Studies whose runs are not trained: a fake launcher writes what a run would have logged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from plm_composer.studies.plan import PlannedRun
from plm_composer.studies.results import Point, RunResult
from tests.commands import REPOSITORY

Loss = Callable[[PlannedRun], float]


def write_study(folder: Path, name: str = "study", **changes: object) -> Path:
    """Writes a study of two variants and two seeds, on an empty data set."""
    (folder / "shards" / "train").mkdir(parents=True, exist_ok=True)
    content = {
        "yaml": str(REPOSITORY / "yamls" / "esm2_small.yaml"),
        "common": [f"data.local={folder / 'shards'}", "max_duration=4ba"],
        "seeds": [1, 2],
        "variants": {"plain": [], "fast": ["optimizer.lr=1e-3"]},
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(
        yaml.safe_dump({key: value for key, value in content.items() if value is not None}, sort_keys=False)
    )
    return path


class FakeLauncher:
    """Records what was launched, and logs two validations per run; the runs in ``fails`` fail."""

    def __init__(self, fails: Sequence[str] = (), loss: Loss = lambda run: 3.0 - 0.1 * run.seed) -> None:
        self.fails = list(fails)
        self.loss = loss
        self.launched: list[tuple[str, bool]] = []

    def __call__(self, run: PlannedRun, arguments: Sequence[str]) -> int:
        self.launched.append((run.folder.name, "autoresume=true" in arguments))
        if run.folder.name in self.fails:
            run.log.write_text("traceback\nerror: loss is NaN\n")
            return 2
        loss = self.loss(run)
        lines = [
            {"batch": batch, "tokens": 100 * batch, "seconds": 1.5 * batch, "metrics/eval/masked_nll": loss + 4 - batch,
             "metrics/eval/accuracy": 0.1}
            for batch in (2, 4)
        ]  # fmt: skip
        (run.folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return 0


def result(variant: str, seed: int, loss: float, curve: Sequence[tuple[float, int, float]] = ()) -> RunResult:
    points = tuple(Point(*point) for point in curve) or (Point(1, 100, loss + 1), Point(2, 200, loss))
    return RunResult(
        variant=variant, seed=seed, loss=loss, perplexity=20.0, accuracy=0.1, scored_tokens=None, set_digest=None,
        tokens=points[-1].tokens, batches=4, seconds=10.0 * seed, training_seconds=points[-1].seconds,
        tokens_per_second=100.0, starts=1, machine="a machine", curve=points, config={"max_duration": "4ba"},
        config_digest="0",
    )  # fmt: skip
